"""Opened models with their tensors in state-dict order.

>>> model, known = in_state_dict_order(open_checkpoint("models/base"))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from remerge.architectures.buffers import is_buffer
from remerge.architectures.order import state_dict_order
from remerge.errors import CheckpointError, printable
from remerge.tensors.checkpoint import Checkpoint, config_of

#: Entries of config.json that say how many layers a model has; `max_window_layers` is none.
_LAYERS = re.compile(r"^(n|num|encoder|decoder)_(\w+_)?layers?$")


def in_state_dict_order(model: Checkpoint) -> tuple[Checkpoint, bool]:
    """Return the model with its tensors in state-dict order, and whether that order is known.

    Where it is not known, tensors of an artefact of this library keep the order that its manifest
    records, and others are sorted by their names. Buffers come last.

    Raises:
        CheckpointError: `config.json` describes another model.
    """
    config = config_of(model.folder)
    buffers = [name for name, info in model.tensors.items() if is_buffer(name, info.shape)]
    weights = [name for name in model.tensors if name not in buffers]
    try:
        check_layers(config, len(weights))
    except CheckpointError as error:
        raise CheckpointError(f"{model.folder}/{error}") from None
    names, known = state_dict_order(config, weights)
    if not known and (model.folder / "manifest.json").exists():
        return model, False
    return replace(model, tensors={name: model.tensors[name] for name in names + buffers}), known


def check_layers(config: Mapping[str, Any], tensors: int) -> None:
    """CheckpointError for a config with more layers than there are tensors."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_layers(value, tensors)
        elif _LAYERS.search(key) and isinstance(value, int | float) and value > max(tensors, 1):
            raise CheckpointError(
                f"config.json: {printable(key, 40)} is {printable(value, 40)}, but the weights are "
                f"{tensors} tensors; it is not the config of this model"
            )
