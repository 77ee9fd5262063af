"""Parameters as recipes write them, and their values for one tensor.

>>> value_at([{"filter": "self_attn", "value": [0, 1]}, {"value": 0.5}], "model.norm.weight", 0.0)
0.5

A setting is a scalar; a list of numbers, piecewise linear over the layers of a slice; or a list of
`{filter, value}`, of which the first counts whose text is part of the tensor's name. These are
mergekit's rules. Outside of the layers a list gives its first value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from remerge.errors import RecipeError, printable

#: A filter that every tensor passes.
_ANY = (None, "*")


def place_of_layer(layer: int, layers: int) -> float:
    """Where layer number `layer` of a slice of `layers` stands, from 0 to 1; 1 for the only one."""
    return layer / (layers - 1) if layers > 1 else 1.0


def value_at(setting: Any, tensor: str, place: float, where: str = "parameter") -> Any:
    """The value of a setting for one tensor.

    Args:
        setting: As a recipe gives it.
        tensor: Name of the tensor, for filters.
        place: From 0 for the first layer of the slice to 1 for its last; 0 outside of layers.
        where: What error messages call the parameter.

    Returns:
        A scalar; None where no filter lets the tensor pass.

    Raises:
        RecipeError: The setting has another form.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        return setting
    if not setting:
        raise RecipeError(f"{where}: an empty list has no value")
    if all(isinstance(entry, Mapping) for entry in setting):
        for entry in setting:
            unknown = entry.keys() - {"filter", "value"}
            if unknown or "value" not in entry:
                raise RecipeError(
                    f"{where}: {printable(dict(entry), 80)} is not of the form "
                    "{filter: text, value: number}"
                )
            text = entry.get("filter")
            if text in _ANY or str(text) in tensor:
                return value_at(entry["value"], tensor, place, where)
        return None
    return _along(setting, place, where)


def filters_of(setting: Any) -> Iterator[str]:
    """The texts of a setting's filters, but of those that every tensor passes."""
    if isinstance(setting, Mapping):
        if setting.get("filter") not in _ANY:
            yield str(setting["filter"])
        yield from filters_of(setting.get("value"))
    elif isinstance(setting, Sequence) and not isinstance(setting, str):
        for entry in setting:
            yield from filters_of(entry)


def _along(values: Sequence[Any], place: float, where: str) -> Any:
    """A list as a gradient: linear between numbers, the one before for switches and words."""
    if any(isinstance(value, Mapping | list | tuple) for value in values):
        raise RecipeError(f"{where}: {printable(list(values), 80)} mixes numbers and filters")
    scaled = place * (len(values) - 1)
    first = int(scaled)
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return values[first]
    second = min(len(values) - 1, first + 1)
    share = scaled - first
    return (1 - share) * values[first] + share * values[second]
