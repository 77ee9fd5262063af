"""Parameters as a recipe or a mergekit file writes them, checked against what a method states.

>>> check_parameters(METHODS["ties"], {"density": [1, 0.7]}, levels, problem)

A value is a scalar, a list of scalars (a gradient), or a list of `{filter, value}`; the result has
the same form with every scalar in its parameter's own type. YAML 1.1 reads `1e-10` as a text, so a
text that is a number counts as one where a number is wanted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from remerge.errors import RecipeError, printable
from remerge.recipes.statements import STATEMENTS
from remerge.schema import nearest, shown

if TYPE_CHECKING:
    from remerge.methods.method import Method, Parameter

#: Says that an entry at a path has no effect; raises where that is an error.
Ineffective = Callable[[tuple[str | int, ...], str], None]
Path = tuple[str | int, ...]
#: Accepted with every method: it only ever chose the type of a mask.
NO_EFFECT = "int8_mask"


def check_parameters(
    method: Method,
    given: Mapping[str, Any],
    own: bool,
    path: Path,
    ineffective: Ineffective,
) -> dict[str, Any]:
    """Check the parameters that stand at one place of a file.

    Args:
        method: The merge method.
        given: The parameters as YAML gives them.
        own: Whether they are those of one model.
        path: Where they stand.
        ineffective: Called for each that mergekit would drop in silence.

    Returns:
        The effective parameters, every scalar checked.

    Raises:
        RecipeError: A value of another form, type or range; the text begins with the name.
    """
    checked: dict[str, Any] = {}
    known = {parameter.name: parameter for parameter in method.parameters}
    for name, value in given.items():
        here = (*path, name)
        if name == NO_EFFECT:
            continue
        if name not in known:
            ineffective(here, f"{method.name} has no parameter {shown(name)}{_meant(name, method)}")
            continue
        parameter = known[name]
        if own and parameter.scope == "merge":
            ineffective(
                here, f"{name} is one value for the whole merge; move it to the parameters of it"
            )
            continue
        if value is not None:
            checked[name] = check_setting(parameter, value, here, ineffective)
    return checked


def _meant(name: str, method: Method) -> str:
    known = [parameter.name for parameter in method.parameters]
    close = nearest(name, known)
    if close:
        return close
    others = [m.name for m in STATEMENTS.values() if any(p.name == name for p in m.parameters)]
    whose = f"; it is one of {', '.join(others[:6])}" if others else ""
    has = f"has {', '.join(known)}" if known else "takes none"
    return f"{whose}; {method.name} {has}"


def check_setting(parameter: Parameter, value: Any, path: Path, ineffective: Ineffective) -> Any:
    """Check the value of one parameter, of any form; arguments and errors as `check_parameters`."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        return _scalar(parameter, value, path)
    if not value:
        raise Misplaced(path, f"{parameter.name} is an empty list; it is {parameter.range}")
    if any(isinstance(entry, Mapping) for entry in value):
        return _filters(parameter, value, path, ineffective)
    if not parameter.per_tensor:
        raise Misplaced(path, f"{parameter.name} is one value for all tensors, not a list")
    return [_scalar(parameter, entry, (*path, i)) for i, entry in enumerate(value)]


def _filters(
    parameter: Parameter, entries: list[Any], path: Path, ineffective: Ineffective
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    everything = False
    for position, entry in enumerate(entries):
        here = (*path, position)
        if not isinstance(entry, Mapping) or "value" not in entry:
            raise Misplaced(
                here,
                f"{parameter.name}: {shown(entry)} is not of the form {{filter: text, value: "
                "number}; a list has numbers or filters, not both",
            )
        for key in entry:
            if key not in ("filter", "value"):
                close = nearest(key, ("filter", "value"))
                ineffective(
                    (*here, key),
                    f"{parameter.name}: unknown key {shown(key)}{close or ';'} an entry has "
                    "filter and value",
                )
        text = entry.get("filter")
        if text is not None and not isinstance(text, str):
            raise Misplaced((*here, "filter"), f"filter is {shown(text)}; expected a text")
        if everything:
            ineffective(
                here,
                f"{parameter.name}: an entry before it takes every tensor, so this one never "
                "counts; put the entry without a filter last",
            )
            continue
        if isinstance(entry["value"], list) and any(isinstance(v, Mapping) for v in entry["value"]):
            raise Misplaced(here, f"{parameter.name}: a filter within a filter")
        value = check_setting(parameter, entry["value"], (*here, "value"), ineffective)
        found.append({"value": value} if text is None else {"filter": text, "value": value})
        everything = text in (None, "*")
    return found


def _scalar(parameter: Parameter, value: Any, path: Path) -> Any:
    if isinstance(value, str) and parameter.kind in ("float", "int"):
        with contextlib.suppress(ValueError):
            value = float(value)
    try:
        return parameter.check(value, "")
    except RecipeError as error:
        raise Misplaced(path, str(error).removeprefix(": ")) from None


class Misplaced(RecipeError):
    """A mistake at a path of a document, whose line the reader of the file knows."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(printable(text, 1000))
        self.path = path
