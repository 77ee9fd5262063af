"""Tables of configuration as strict models; a mistake in one is one line.

>>> class Pin(Table):
...     sha256: str
...     size: Annotated[int, Field(ge=0)]
>>> read_table(Pin, {"sha256": "ab", "sise": 1}, "file 'a'")
Traceback (most recent call last):
remerge.errors.RecipeError: file 'a': unknown key 'sise'; did you mean 'size'? …

The type of a value is known before the value is hashed, compared or shown.
"""

from __future__ import annotations

import difflib
import reprlib
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from remerge.errors import RecipeError, RemergeError, printable


class Table(BaseModel):
    """A table of configuration: known keys only, no conversion of types, never changed."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True
    )


T = TypeVar("T", bound=Table)

#: What a table or list is called; other types are named by pydantic ("a valid string").
_EXPECTED = {
    "model_type": "a table of entries",
    "model_attributes_type": "a table of entries",
    "dict_type": "a table of entries",
    "list_type": "a list",
    "tuple_type": "a list",
    "string_type": "a text",
    "string_unicode": "a text of whole characters",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of 64 bits",
    "float_type": "a number",
    "none_required": "null",
    "recursion_loop": "a table that does not contain itself",
}
#: The order in which mistakes are named: an unknown key is often why another one is missing.
_FIRST = ("extra_forbidden", "invalid_key")


def read_table(
    model: type[T],
    value: object,
    where: str,
    *,
    separator: str = ".",
    error: type[RemergeError] = RecipeError,
) -> T:
    """Read a table of configuration.

    Args:
        model: What the table must be.
        value: The table as a YAML or JSON reader returns it.
        where: The place of the table, which begins the message.
        separator: What stands in the message between `where` and the key within the table.
        error: The class of the error to raise.

    Returns:
        The validated table.

    Raises:
        RemergeError: `value` is something else; one line with the place, the value, what was
            expected and, for an unknown key, the nearest known one. Its class is `error`.
    """
    plain = dict(value) if isinstance(value, Mapping) else value
    try:
        return model.model_validate(plain)
    except ValidationError as mistakes:
        found = mistakes.errors(include_url=False, include_context=True)
        first = min(found, key=lambda mistake: mistake["type"] not in _FIRST)
        raise error(_line(model, first, where, separator)) from None
    except RecursionError:
        raise error(f"{where}: is nested too deep to be genuine") from None


def nearest(name: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'density'?` for a misspelling of a known name, else an empty text."""
    close = difflib.get_close_matches(str(name)[:200], list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: object) -> str:
    """Return the value as an error shows it: on one line, of bounded length, without secrets."""
    # reprlib stops at a depth and a length: anchors in YAML make little text a boundless value.
    return repr(printable(value, 80)) if isinstance(value, str) else printable(reprlib.repr(value))


def _line(model: type[Table], mistake: Any, where: str, separator: str) -> str:
    """The message for one mistake that pydantic found."""
    kind, location = mistake["type"], [part for part in mistake["loc"] if part != "[key]"]
    if "[key]" in mistake["loc"]:
        # A check of our own says what is wrong with a name.
        kind = kind if kind == "value_error" else "invalid_key"
        location = [*location[:-1], *([""] if kind == "invalid_key" else [])]
    if kind in _FIRST:
        *path, key = location or [""]
        known = sorted(_keys(model, path))
        place = where + "".join(_step(part, separator) for part in path)
        if kind == "invalid_key":
            return f"{place}: key {shown(mistake['input'])} is no text"
        listed = f" known are {', '.join(known)}" if known else ""
        return f"{place}: unknown key {shown(key)}{nearest(key, known) or ';'}{listed}"
    place = where + "".join(_step(part, separator) for part in location)
    if kind == "missing":
        return f"{place} is missing"
    message = mistake["msg"]
    if kind == "value_error":  # a check of our own
        return f"{place}: {message.removeprefix('Value error, ')}"
    expected = _EXPECTED.get(kind) or message.removeprefix("Input should be ")
    if expected.startswith(("less", "greater")):
        expected = f"a value {expected}"
    return f"{place} is {shown(mistake['input'])}; expected {printable(expected)}"


def _step(part: object, separator: str) -> str:
    return f"[{part}]" if isinstance(part, int) else f"{separator}{printable(part, 80)}"


def _keys(model: Any, path: list[Any]) -> set[str]:
    """The keys of the tables at `path` below `model`, as their annotations say."""
    if isinstance(model, type) and issubclass(model, Table):
        if not path:
            return {field.alias or name for name, field in model.model_fields.items()}
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if path[0] in fields:
            return _keys(fields[path[0]].annotation, path[1:])
        # A union names its member in the location of a mistake.
        return _keys(model, path[1:])
    origin, inner = typing.get_origin(model), typing.get_args(model)
    if origin in (dict, Mapping, list, tuple) and path:
        return _keys(inner[-1] if origin in (dict, Mapping) else inner[0], path[1:])
    return set().union(*(_keys(argument, path) for argument in inner))
