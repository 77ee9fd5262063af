"""The recipe in use: what `conf/config.yaml` chooses, read and changed with its comments.

>>> text = with_choice(text, {"recipe": "mine"}, {"ties.density": 0.5}, [])

A group is chosen in `defaults`; a value stands in the file itself, which wins over the groups. So
`dvc exp run` without `-S` composes the choice, and one with `-S` starts from it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from remerge.errors import RecipeError, printable
from remerge.pins.recipe_text import read_document
from remerge.schema import shown

_WHERE = "conf/config.yaml"


@dataclass(frozen=True)
class Choice:
    """What is chosen: an option, or several, of each group, and values by their dotted key."""

    options: dict[str, Any]
    values: dict[str, Any]


def read_choice(text: str) -> Choice:
    """Read the choice from the text of `conf/config.yaml`; RecipeError where it has none."""
    document = read_document(text, _WHERE)
    values: dict[str, Any] = {}
    _flatten({k: v for k, v in document.items() if k != "defaults" and not _derived(v)}, "", values)
    options = {str(k): v for entry in _groups(document) for k, v in entry.items()}
    return Choice(options, values)


def with_choice(
    text: str, options: Mapping[str, Any], values: Mapping[str, Any], dropped: Iterable[str]
) -> str:
    """Change the choice; everything that is not named stays.

    Args:
        text: `conf/config.yaml`.
        options: The option, or a list of options, for each group to choose.
        values: Values by their dotted key.
        dropped: Dotted keys whose chosen value is given up.

    Returns:
        The new text, with all comments.

    Raises:
        RecipeError: A key that is derived, or a value to drop that is not there.
    """
    document = read_document(text, _WHERE)
    entries = _groups(document)
    for group, option in options.items():
        for entry in entries:
            if group in entry:
                entry[group] = _flow(option)
                break
        else:
            defaults = document["defaults"]
            at = defaults.index("_self_") if "_self_" in defaults else len(defaults)
            defaults.insert(at, CommentedMap({group: _flow(option)}))
    for key, value in values.items():
        _set(document, key.split("."), value)
    for key in dropped:
        _drop(document, key)
    out = io.StringIO()
    yaml = _yaml()
    yaml.dump(document, out)
    return out.getvalue()


def parse_setting(text: str) -> tuple[str, Any]:
    """Read `key=value`, the value as YAML; RecipeError for anything else."""
    key, equals, value = text.partition("=")
    key = key.lstrip("+")
    if not equals or not key or not all(key.split(".")):
        raise RecipeError(f"{shown(text)} is not of the form key=value, such as ties.density=0.5")
    try:
        return key, YAML(typ="safe", pure=True).load(value)
    except (YAMLError, ValueError, RecursionError, TypeError) as error:
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise RecipeError(
            f"{printable(key, 80)}: {shown(value)} is no value of YAML: {reason}"
        ) from None


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1000
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _groups(document: CommentedMap) -> list[CommentedMap]:
    defaults = document.get("defaults")
    if not isinstance(defaults, CommentedSeq):
        raise RecipeError(f"{_WHERE}: has no list `defaults`")
    return [entry for entry in defaults if isinstance(entry, CommentedMap)]


def _flow(value: Any) -> Any:
    """A list or table as it is written on one line."""
    if isinstance(value, list):
        value = CommentedSeq(value)
        value.fa.set_flow_style()
    return value


def _derived(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("${derived:")


def _set(document: CommentedMap, path: list[str], value: Any) -> None:
    node: Any = document
    for depth, key in enumerate(path):
        if key == "defaults" or not isinstance(node, CommentedMap) or _derived(node.get(key)):
            raise RecipeError(
                f"{printable('.'.join(path), 80)} follows from the recipe; not a choice"
            )
        if depth == len(path) - 1:
            node[key] = _flow(value)
        else:
            if not isinstance(node.get(key), CommentedMap):
                node[key] = CommentedMap()
            node = node[key]


def _drop(document: CommentedMap, key: str) -> None:
    path = key.split(".")
    nodes: list[Any] = [document]
    for part in path[:-1]:
        nodes.append(nodes[-1].get(part) if isinstance(nodes[-1], CommentedMap) else None)
    if (
        not isinstance(nodes[-1], CommentedMap)
        or path[-1] not in nodes[-1]
        or path[0] == "defaults"
    ):
        known = ", ".join(read_choice(_dumped(document)).values) or "none"
        raise RecipeError(f"~{printable(key, 80)}: no such value is chosen; chosen are {known}")
    for node, part in zip(reversed(nodes), reversed(path), strict=True):
        if part == path[-1] or not node[part]:
            del node[part]


def _dumped(document: CommentedMap) -> str:
    out = io.StringIO()
    _yaml().dump(document, out)
    return out.getvalue()


def _flatten(table: Mapping[str, Any], prefix: str, into: dict[str, Any]) -> None:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            _flatten(value, f"{prefix}{key}.", into)
        else:
            into[f"{prefix}{key}"] = value
