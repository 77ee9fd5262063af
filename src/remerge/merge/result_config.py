"""What config.json of a result says that its donor's does not: layers and rows of the vocabulary.

>>> config_changes(config, table, donor, configs)
{'num_hidden_layers': 48}

Stacked layers change their number, and what a config says layer by layer goes with the layers. A
setting that counts layers from the front cannot follow them, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remerge.architectures.compatibility import TOKEN_TENSORS
from remerge.architectures.layer_number import layer_list, split_layer
from remerge.errors import RecipeError, printable
from remerge.merge.table import Row, Table
from remerge.tensors.checkpoint import Checkpoint

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
_ROWS = "vocab_size"
#: Settings that say by a layer's position what it is, and the value with which they say nothing.
_BY_POSITION: dict[str, tuple[Any, ...]] = {
    "decoder_sparse_step": (None, 1),
    "first_k_dense_replace": (None, 0),
    "full_attention_interval": (None, 1),
    "mlp_only_layers": (None, []),
    "moe_layer_freq": (None, 1),
    "sliding_window_pattern": (None, 1),
}


def config_changes(
    config: Mapping[str, Any],
    table: Table,
    donor: Checkpoint,
    configs: Mapping[str, Mapping[str, Any]],
    label: str = "merge",
) -> dict[str, Any]:
    """Return the entries of config.json to set in the result.

    Args:
        config: The donor's.
        table: The merge.
        donor: The model whose config the result gets.
        configs: config.json of every model by label, for what is said layer by layer.
        label: What error messages call the merge.

    Raises:
        RecipeError: The config cannot say what the result is.
    """
    changes = _layers(config, table, donor, configs, label)
    ours, theirs = _vocabulary_rows(table), _rows_of(donor)
    if ours is not None and ours != theirs:
        changes |= _set(config, _ROWS, theirs, ours) or {_ROWS: ours}
    return changes


def _first_rows(table: Table) -> tuple[dict[int, Row], bool]:
    """A row of each output layer, and whether some layer has another number than in its model."""
    found: dict[int, Row] = {}
    moved = False
    for row in table:
        place = split_layer(row.tensor)
        if place is None:
            continue
        source = split_layer(row.sources[0].tensor)
        moved = moved or source is None or source[0] != place[0]
        found.setdefault(place[0], row)
    return found, moved


def _layers(
    config: Mapping[str, Any],
    table: Table,
    donor: Checkpoint,
    configs: Mapping[str, Mapping[str, Any]],
    label: str,
) -> dict[str, Any]:
    rows, moved = _first_rows(table)
    if not rows:
        return {}
    before = _count(donor, layer_list(rows[min(rows)].tensor))
    if len({layer_list(row.tensor) for row in table} - {None}) > 1 and not moved:
        return {}  # whole models with several lists of layers
    if not moved and len(rows) == before:
        return {}
    section = _section(config, before)
    if section is None:
        if not config:
            return {}
        raise RecipeError(
            f"{label}: config.json of {printable(donor.label)} says nowhere that it has {before} "
            f"layers (known are {', '.join(_COUNTS)}), so it cannot say that the result has "
            f"{len(rows)}"
        )
    path, part, key = section
    for name, harmless in _BY_POSITION.items():
        if part.get(name) not in harmless:
            raise RecipeError(
                f"{label}: config.json of {printable(donor.label)} has {name}: "
                f"{printable(part[name], 60)}, which says by its position what a layer is; layers "
                "of such a model cannot be stacked anew"
            )
    changed: dict[str, Any] = {key: len(rows)}
    for name, value in part.items():
        if isinstance(value, list) and len(value) == before:
            changed[name] = [_entry(configs, rows[i], path, name, label) for i in sorted(rows)]
    return _nested(config, path, changed)


def _entry(
    configs: Mapping[str, Mapping[str, Any]],
    row: Row,
    path: tuple[str, ...],
    name: str,
    label: str,
) -> Any:
    """What a source's config says of the layer that an output layer comes from."""
    source = row.sources[0]
    part: Any = configs.get(source.model, {})
    for step in path:
        part = part.get(step, {}) if isinstance(part, Mapping) else {}
    values = part.get(name) if isinstance(part, Mapping) else None
    place = split_layer(source.tensor)
    if not isinstance(values, list) or place is None or place[0] >= len(values):
        raise RecipeError(
            f"{label}: config.json of {printable(source.model)} does not say {name} of each layer"
        )
    return values[place[0]]


def _section(
    config: Mapping[str, Any], layers: int
) -> tuple[tuple[str, ...], Mapping[str, Any], str] | None:
    """Where the config counts `layers`: the path of its part, the part, and the key."""
    for key in _COUNTS:
        if config.get(key) == layers and type(config[key]) is int:
            return (), config, key
    for name, part in config.items():
        if isinstance(part, Mapping):
            found = _section(part, layers)
            if found is not None:
                return (name, *found[0]), found[1], found[2]
    return None


def _nested(
    config: Mapping[str, Any], path: tuple[str, ...], changed: Mapping[str, Any]
) -> dict[str, Any]:
    """`changed` as entries of the whole config."""
    if not path:
        return dict(changed)
    part = config[path[0]]
    return {path[0]: {**part, **_nested(part, path[1:], changed)}}


def _set(config: Mapping[str, Any], key: str, before: int | None, now: int) -> dict[str, Any]:
    """`key: now` where the config, or a part of it, says `before`; empty where it does not."""
    if config.get(key) == before and before is not None:
        return {key: now}
    for name, part in config.items():
        if isinstance(part, Mapping):
            found = _set(part, key, before, now)
            if found:
                return {name: {**part, **found}}
    return {}


def _count(model: Checkpoint, within: str | None) -> int:
    places = [split_layer(name) for name in model.tensors if layer_list(name) == within]
    return max((place[0] + 1 for place in places if place is not None), default=0)


def _vocabulary_rows(table: Table) -> int | None:
    rows = [r.shape[0] for r in table if r.tensor.endswith(TOKEN_TENSORS) and r.shape]
    return rows[0] if rows else None


def _rows_of(model: Checkpoint) -> int | None:
    rows = [t.shape[0] for n, t in model.tensors.items() if n.endswith(TOKEN_TENSORS) and t.shape]
    return rows[0] if rows else None
