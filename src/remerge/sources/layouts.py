"""Which files of a source are its weights: decided by name and index, never by what a name ends in.

>>> weight_files(listed, {"pytorch_model.bin.index.json": weight_map}, "source 'chronos'")
['pytorch_model-00001-of-00003.bin', …]

Repositories of 2023 carry quantised strays beside their real shards, and the same weights twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from remerge.adapters.peft_config import CONFIG_NAME
from remerge.adapters.peft_files import WEIGHTS_NAME
from remerge.errors import CheckpointError

#: Index and single file of each layout of a model; the first of two is the safer one.
LAYOUTS = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
INDEXES = tuple(index for index, _ in LAYOUTS)
ADAPTER_WEIGHTS = (WEIGHTS_NAME, "adapter_model.bin")
_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights of some kind, stray or not."""
    return name.endswith(_ENDINGS)


def weight_files(
    listed: Collection[str], weight_maps: Mapping[str, Mapping[str, str]], where: str
) -> list[str]:
    """Names of the files that hold a model's weights; CheckpointError if there is none or a choice.

    listed       names of all files of the source
    weight_maps  by name of an index file in it: tensor name to file name
    """
    layouts = [pair for pair in LAYOUTS if any(name in listed for name in pair)]
    if not layouts:
        raise CheckpointError(f"{where}: none of its files is a checkpoint (model.safetensors, …)")
    if len(layouts) > 1:
        raise CheckpointError(
            f"{where}: lists both safetensors and pickle weights; keep one of them in the recipe"
        )
    index, single = layouts[0]
    if index not in listed:
        return [single]
    if single in listed:
        raise CheckpointError(f"{where}: lists both {index} and {single}; keep one in the recipe")
    named = sorted(set(weight_maps[index].values()))
    missing = [name for name in named if name not in listed]
    if missing:
        raise CheckpointError(
            f"{where}: {index} names {missing[0]!r}, which the recipe does not list"
        )
    return named


def adapter_file(listed: Collection[str], where: str) -> str:
    """Name of the file that holds an adapter's weights; CheckpointError if none or a choice."""
    kinds = [name for name in ADAPTER_WEIGHTS if name in listed]
    if not kinds:
        raise CheckpointError(f"{where}: the recipe lists no {' and no '.join(ADAPTER_WEIGHTS)}")
    if len(kinds) > 1:
        raise CheckpointError(f"{where}: lists both {' and '.join(kinds)}; keep one in the recipe")
    return kinds[0]


def require_config(listed: Collection[str], kind: str, where: str) -> None:
    """CheckpointError unless a model or adapter lists its config."""
    config = CONFIG_NAME if kind == "adapter" else "config.json"
    if config not in listed:
        raise CheckpointError(f"{where}: the recipe lists no {config}")
