"""What to type to build the same again: the overrides that make these parameters of `conf/`.

>>> overrides_of(params, compose, options)
('recipe=tiny', 'gradient=inverted', 'ties.density=0.6')

The parameters do not say which options they were composed of, so options are tried until what they
compose to differs least, and what still differs is named value by value. What comes out has been
composed once more and found to be the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from remerge.errors import RecipeError
from remerge.report.build import Build

Compose = Callable[[list[str]], Mapping[str, Any]]
Flat = dict[tuple[str, ...], Any]

#: The sections that decide what is built; where the work runs changes no byte.
_SECTIONS = ("recipe", "ties", "gradient", "eval", "quantize")


def rebuild_commands(build: Build) -> list[str]:
    """What to type to build the model again, check it and talk to it."""
    raw = " --raw" if build.recipe.get("prompt") == "raw" else ""
    rebuild = "dvc repro"
    if build.overrides is not None:
        settings = (f"-S {shlex.quote(override)}" for override in build.overrides)
        rebuild = " ".join(["dvc exp run", *settings])
    return [rebuild, "remerge id merged/final", f"remerge chat merged/final{raw}"]


def overrides_of(
    params: Mapping[str, Any], compose: Compose, options: Mapping[str, Sequence[str]]
) -> tuple[str, ...] | None:
    """Overrides that compose to `params`, or None where none are found.

    compose: the parameters for a list of overrides; RecipeError for what does not compose.
    options: the names of the options of each group of `conf/`.
    """
    search = _Search(_flat(params), compose)
    name = str(params["recipe"].get("name"))
    # The one that is called as the recipe is first: mostly it is the one.
    recipes = sorted(options.get("recipe", ()), key=lambda option: (option != name, option))
    if not search.choose([f"recipe={option}" for option in recipes], "recipe"):
        return None
    for group in ("eval", "gradient", "ties"):
        search.choose([f"{group}={option}" for option in options.get(group, ())], group)
    uses = params["recipe"].get("formats") or {}
    formats = [*options.get("quantize", ()), f"[{','.join(uses)}]"]
    search.choose([f"quantize={option}" for option in formats], "quantize", "recipe.formats")
    scored = [name for name, use in uses.items() if use and use.get("score")]
    search.choose([f"+eval/quants=[{','.join(scored)}]"] if scored else [], "recipe.formats")
    search.chosen += search.differences(search.chosen) or []
    return tuple(search.chosen) if search.differences(search.chosen) == [] else None


class _Search:
    """The overrides chosen so far, and how far what they compose to is from what is wanted."""

    def __init__(self, wanted: Flat, compose: Compose) -> None:
        self.chosen: list[str] = []
        self._wanted = wanted
        self._compose = compose
        self._known: dict[tuple[str, ...], list[str] | None] = {}

    def differences(self, overrides: list[str]) -> list[str] | None:
        """Overrides that are still missing; None where these do not compose."""
        key = tuple(overrides)
        if key not in self._known:
            try:
                made = _flat(self._compose(overrides))
                self._known[key] = _differences(self._wanted, made)
            except RecipeError:
                self._known[key] = None
        return self._known[key]

    def choose(self, additions: list[str], *sections: str) -> bool:
        """Take the addition that leaves the fewest differences; none while `sections` have none."""
        nearest = self.differences(self.chosen) if self.chosen else None
        chosen = self.chosen
        for addition in additions:
            if nearest is not None and not any(_within(d, sections) for d in nearest):
                break
            left = self.differences([*self.chosen, addition])
            if left is not None and (nearest is None or len(left) < len(nearest)):
                nearest, chosen = left, [*self.chosen, addition]
        self.chosen = chosen
        return bool(chosen)


def _within(override: str, sections: Sequence[str]) -> bool:
    """Whether an override is of one of the sections; a title follows the gradient."""
    path = override.lstrip("+~").partition("=")[0]
    return path.partition(".")[0] in sections and path != "recipe.title"


def _flat(params: Mapping[str, Any]) -> Flat:
    """Values by their path; a list is one value, and so is an empty table."""

    def walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                yield from walk(inner, (*path, str(key)))
        else:
            yield path, value

    return dict(walk({section: params.get(section) for section in _SECTIONS}, ()))


def _differences(wanted: Flat, made: Flat) -> list[str]:
    """Overrides that turn `made` into `wanted`."""
    gone = [f"~{'.'.join(path)}" for path in made if path not in wanted]
    changed = [
        f"{'' if path in made else '+'}{'.'.join(path)}={_value(value)}"
        for path, value in wanted.items()
        if path not in made or made[path] != value or type(made[path]) is not type(value)
    ]
    return gone + changed


def _value(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, str):
        if value.isidentifier() and value.lower() not in ("true", "false", "null", "nan", "inf"):
            return value
        # A quote needs a backslash, and so do those that stand before one.
        return f"'{value}'" if "'" not in value and not value.endswith("\\") else f'"{value}"'
    return repr(value)
