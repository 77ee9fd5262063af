"""The order of a model's tensors: that of its own state dict, as transformers defines it.

>>> state_dict_order(config, names)

The gradient merge counts tensors in this order, and our shards are written in it. It cannot be read
off a checkpoint: files are sorted by the alphabet, by size, or by whatever tool wrote them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from remerge.architectures.order import llama_order
from remerge.errors import CheckpointError, ToolError, printable
from remerge.tensors.checkpoint import Checkpoint
from remerge.tensors.compatibility import is_buffer
from remerge.tensors.json_files import json_text, read_json, write_json

#: Entries of config.json that say how many times something is built.
_COUNT = re.compile(r"^(n|num)_(\w+_)?(layers?|experts|blocks)$|_layers$")
#: Entries of config.json that do not decide which tensors a model has.
_NO_STRUCTURE = re.compile(
    r"^(auto_map|_name_or_path|torch_dtype|dtype|transformers_version|use_cache|vocab_size|"
    r"max_position_embeddings|\w+_token_id)$"
)


def state_dict_order(
    config: dict[str, Any], names: Iterable[str], cache: Path | None = None
) -> tuple[list[str], bool]:
    """`names` in state-dict order, and whether transformers knows all of them.

    Names that transformers does not have for this architecture follow at the end, ordered as
    numbers and words. `cache`: a folder that keeps the order of an architecture for the next
    model of the same one, since loading transformers takes longer than reading a small model.
    """
    wanted = set(names)
    _check_counts(config, len(wanted))
    known = llama_order(config)
    if not wanted.issubset(known):
        known = _cached(config, cache) if cache else _names_by_transformers(config)
    ordered = [name for name in known if name in wanted]
    rest = sorted(wanted.difference(ordered), key=_natural)
    return ordered + rest, not rest


def in_state_dict_order(model: Checkpoint, cache: Path) -> tuple[Checkpoint, bool]:
    """The model with its tensors in state-dict order, and whether that order is known.

    A manifest of this library has it; for other folders transformers says it, by their config.json.
    A model that it does not know keeps the order of its files. `cache` as in `state_dict_order`.
    """
    manifest, config_path = model.folder / "manifest.json", model.folder / "config.json"
    if manifest.exists() and isinstance(read_json(manifest).get("order"), list):
        return model, True
    config = read_json(config_path) if config_path.exists() else {}
    if not isinstance(config.get("model_type"), str):
        return model, False
    buffers = [name for name, info in model.tensors.items() if is_buffer(name, info.shape)]
    weights = [name for name in model.tensors if name not in buffers]
    try:
        names, known = state_dict_order(config, weights, cache)
    except CheckpointError as error:
        raise CheckpointError(f"{model.folder}/{error}") from None
    if not known:
        return model, False
    return replace(model, tensors={name: model.tensors[name] for name in names + buffers}), True


def _check_counts(config: dict[str, Any], tensors: int) -> None:
    """CheckpointError for a config with more parts than tensors: building it might never end."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_counts(value, tensors)
        elif _COUNT.search(key) and isinstance(value, int | float) and value > max(tensors, 1):
            raise CheckpointError(
                f"config.json: {printable(key, 40)} is {printable(value, 40)}, but the weights are "
                f"{tensors} tensors; it is not the config of this model"
            )


def _cached(config: dict[str, Any], cache: Path) -> list[str]:
    structure = {k: v for k, v in config.items() if not _NO_STRUCTURE.search(k)}
    key = [version("transformers"), structure]
    path = cache / f"{hashlib.sha256(json_text(key).encode()).hexdigest()[:32]}.json"
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        kept = None
    if isinstance(kept, list) and kept and all(isinstance(name, str) for name in kept):
        return kept
    names = _names_by_transformers(config)
    if names:  # what is not known today may be known to a complete installation
        with suppress(OSError):  # only time is lost
            write_json(path, names)
    return names


def _names_by_transformers(config: dict[str, Any]) -> list[str]:
    """Names in the state dict of the model that `config` describes; none if it is not known.

    The model is built on the meta device: no weights, no remote code.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {key: value for key, value in config.items() if key != "auto_map"}
    model_type = settings.pop("model_type", None)
    if not isinstance(model_type, str):
        raise CheckpointError("config.json names no model_type")
    try:
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(
                AutoConfig.for_model(model_type, **settings), trust_remote_code=False
            )
        return list(built.state_dict())
    except (MemoryError, OSError, ImportError) as error:
        # Of this machine and this moment, which must not decide an order of bytes.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ToolError(
            f"the order of the tensors of a {printable(model_type, 40)} cannot be told: "
            f"{printable(reason[0], 160)}; mend that and run it again"
        ) from error
    except Exception:  # a config may be wrong in any way; the model then counts as not known
        return []


def _natural(name: str) -> list[tuple[int, str]]:
    # A number is compared by its length, then its digits: a stranger's may have thousands.
    parts = re.split(r"([0-9]+)", name)
    numbers = [part.lstrip("0") if i % 2 else "" for i, part in enumerate(parts)]
    return [(len(numbers[i]), numbers[i]) if i % 2 else (-1, p) for i, p in enumerate(parts)]
