"""What is looked at before a runtime is given a model.

>>> require_runnable(Path("merged/final"))

The libraries read more files than they name, and each was written by anybody. Here all of them are
read first, bounded, and held against the headers of the weights; nothing is loaded.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, ToolError, printable
from remerge.runtimes.model_config import (
    check_config,
    check_generation,
    check_tokenizer,
    check_tokenizer_settings,
)
from remerge.runtimes.programs import Quant, quant_at
from remerge.tensors.checkpoint import INDEX_NAME, SINGLE_NAME, open_checkpoint
from remerge.tensors.json_files import read_json

_SHOWN = 3
_CONTAINERS = {"llama.cpp": "gguf", "ctransformers": "ggml"}


def require_runnable(path: Path) -> Quant | None:
    """Check every byte of a model that a runtime takes a length or a place from.

    Args:
        path: A folder of safetensors, a GGUF or GGML file, or a folder with one such file.

    Returns:
        The file, if it has a runtime of its own.

    Raises:
        CheckpointError: What no model has, or what would make a runtime read something else.
    """
    quant = quant_at(path)
    if quant is None:
        require_loadable(path)
    else:
        # By name: a reader that only refuses decides no score, so no score depends on its code.
        container = _CONTAINERS[quant.runtime]
        reader = importlib.import_module(f"remerge.quantize.{container}.header")
        reader.require_alone(quant.path)
    return quant


def require_loadable(folder: Path) -> None:
    """Check every file of a model that transformers would read.

    Args:
        folder: A folder with a `config.json`.

    Raises:
        CheckpointError: What no model has, or what would make a loader read something else.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: holds neither a config.json with weights nor one GGUF or GGML file"
        )
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder}: adapter_config.json makes loaders read another base model; remove it"
        )
    if (folder / SINGLE_NAME).exists() and (folder / INDEX_NAME).exists():
        raise CheckpointError(
            f"{folder}: holds {SINGLE_NAME} and {INDEX_NAME}, and loaders differ in which they "
            "read; remove one"
        )
    tensors = open_checkpoint(folder).tensors
    shapes = [info.shape for info in tensors.values()]
    config = folder / "config.json"
    check_config(read_json(config), str(config), shapes)
    for name, check in (
        ("tokenizer_config.json", check_tokenizer_settings),
        ("tokenizer.json", check_tokenizer),
        ("generation_config.json", check_generation),
    ):
        if (folder / name).exists():
            check(read_json(folder / name), str(folder / name))
    for name in ("special_tokens_map.json", "added_tokens.json"):
        if (folder / name).exists():
            read_json(folder / name)


def require_known(folder: Path) -> None:
    """CheckpointError for an architecture that the installed transformers has no code for."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = read_json(folder / "config.json").get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type {printable(kind, 40)!r} is no language model "
            f"that transformers {transformers.__version__} knows; code of its own is never run"
        )


def require_whole(loading: dict[str, Any], folder: Path) -> None:
    """Refuse weights that are not those of the model that was built.

    transformers fills what is missing with random numbers and drops what is left over; buffers of
    old checkpoints, which it passes over, are neither.

    Args:
        loading: What `from_pretrained(output_loading_info=True)` gives.
        folder: Names the model.

    Raises:
        ToolError: Tensors that are missing, left over, or of another shape.
    """
    for names, what in (
        (loading.get("missing_keys", ()), "lacks tensors of the model that config.json describes"),
        (
            loading.get("unexpected_keys", ()),
            "has tensors that the model of config.json does not have",
        ),
        (loading.get("mismatched_keys", ()), "has tensors of other shapes than config.json says"),
    ):
        if names:
            shown = ", ".join(printable(name, 80) for name in sorted(map(str, names))[:_SHOWN])
            raise ToolError(f"{folder}: {what}: {shown}")
