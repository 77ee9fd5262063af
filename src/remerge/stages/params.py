"""`params.yaml`, checked before a stage does anything.

The whole was checked when it was composed (`stages.checking`), but the file may have been edited
since: every stage checks the recipe and the merges again, so a mistake is one line.
"""

from __future__ import annotations

import math
import re
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remerge.errors import RecipeError, printable
from remerge.yaml_text import read_yaml

PLACES = 8
#: What an unused place points at, since DVC wants a path for each dependency.
UNUSED = "conf/recipe/unused"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_SECTIONS = {
    "recipe",
    "ties",
    "gradient",
    "eval",
    "quantize",
    "quantize_eval",
    "code",
    "report",
    "execution",
    "checked",
}
_RECIPE = {
    "name",
    "title",
    "titles",
    "dtype",
    "shard_bytes",
    "base",
    "sources",
    "loras",
    "parts",
    "assumptions",
    "prompt",
    "licence",
}
_EXECUTION = {
    "backend",
    "downloads",
    "keep_downloads",
    "address",
    "cpus",
    "memory",
    "retries",
    "in_flight",
}
_ADDRESS = re.compile(r"auto|[A-Za-z0-9._-]+:[0-9]{1,5}")
_PLACE = {"name", "path", "density", "weight", "vocabulary"}

Params = dict[str, Any]


def read_params(path: Path | str = "params.yaml") -> Params:
    """The parameters as plain dictionaries; RecipeError names the first entry that is wrong."""
    try:
        params = read_yaml(Path(path))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path}: {reason}; compose it with `dvc exp run`") from None
    if not isinstance(params, dict):
        raise RecipeError(f"{path}: is empty; compose it with `dvc exp run`")
    check_params(params)
    return params


def check_params(params: Mapping[str, Any]) -> None:
    """RecipeError for an unknown key, a value out of range, a name unfit for a shell."""
    only(params, _SECTIONS, "params.yaml")
    for section in ("recipe", "ties", "gradient"):
        _mapping(params.get(section), section)
    recipe, ties, gradient = params["recipe"], params["ties"], params["gradient"]
    only(recipe, _RECIPE, "recipe")
    only(ties, {"density", "lambda", "normalize", "elect"}, "ties")
    only(gradient, {"name", "values", "along", "blend", "containing"}, "gradient")
    number(recipe.get("shard_bytes"), "recipe.shard_bytes", low=1, whole=True)
    number(ties.get("density"), "ties.density", low=0, high=1, low_open=True)
    number(ties.get("lambda"), "ties.lambda")
    if not isinstance(ties.get("normalize"), bool):
        raise RecipeError(
            f"ties.normalize is {shown(ties.get('normalize'))}; expected true or false"
        )
    one_of(ties.get("elect"), "ties.elect", ("sum", "count"))
    one_of(recipe.get("dtype"), "recipe.dtype", ("float16", "bfloat16", "float32"))
    one_of(gradient.get("along"), "gradient.along", ("tensors", "layers"))
    one_of(gradient.get("blend"), "gradient.blend", ("all", "layers", "no_layers"))
    if not isinstance(gradient.get("containing"), str):
        raise RecipeError(f"gradient.containing is {shown(gradient.get('containing'))}, not a text")
    values = gradient.get("values")
    if not isinstance(values, list) or len(values) < 2:
        raise RecipeError(f"gradient.values is {shown(values)}; expected at least two numbers")
    for position, value in enumerate(values):
        number(value, f"gradient.values[{position}]", low=0, high=1)
    for group, roots in (("sources", ("models", "adapters", "datasets")), ("loras", ("baked",))):
        for key in _mapping(recipe.get(group), f"recipe.{group}"):
            name_for_shell(key, f"recipe.{group}")
            _check_out(recipe[group][key], f"recipe.{group}.{key}", roots)
    for key, entry in _mapping(params.get("quantize_eval") or {}, "quantize_eval").items():
        name_for_shell(key, "quantize_eval")
        _check_out(entry, f"quantize_eval.{key}", ("quantized", "scores"))
    _check_execution(params.get("execution") or {})
    _check_parts(recipe)


def _check_execution(execution: Mapping[str, Any]) -> None:
    """Where the work runs: no part of any result, but a mistake in it is still told first."""
    only(execution, _EXECUTION, "execution")
    backend = execution.get("backend", "local")
    one_of(backend, "execution.backend", ("local", "ray"))
    for key, least in (("downloads", 1), ("cpus", 1), ("memory", 0), ("retries", 0)):
        if key in execution:
            number(execution[key], f"execution.{key}", low=least, whole=True)
    if execution.get("in_flight") is not None:
        number(execution["in_flight"], "execution.in_flight", low=1, whole=True)
    address = execution.get("address", "auto")
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        raise RecipeError(
            f"execution.address is {shown(address)}; expected auto or HOST:PORT of a Ray head"
        )


def _check_out(entry: Any, where: str, roots: tuple[str, ...]) -> None:
    """RecipeError unless the entry's output is a folder below one of `roots`."""
    out = _mapping(entry, where).get("out")
    root, *names = out.split("/") if isinstance(out, str) else [""]
    if root not in roots or not names or not all(_NAME.fullmatch(name) for name in names):
        raise RecipeError(f"{where}.out is {shown(out)}; expected a path such as {roots[0]}/NAME")


def _check_parts(recipe: Mapping[str, Any]) -> None:
    made = [
        _mapping(entry, f"recipe.{group}.{key}").get("out")
        for group in ("sources", "loras")
        for key, entry in recipe[group].items()
    ]
    if recipe.get("base") not in made:
        raise RecipeError(f"recipe.base {shown(recipe.get('base'))} is the out of no source")
    for part, places in _mapping(recipe.get("parts"), "recipe.parts").items():
        only(places, {f"d{i}" for i in range(1, PLACES + 1)}, f"recipe.parts.{part}")
        donors = part_donors(recipe, part)
        if not donors:
            raise RecipeError(f"recipe.parts.{part}: no donor in any of its {PLACES} places")
        for place, donor in donors.items():
            where = f"recipe.parts.{part}.{place}"
            if donor.get("path") not in made:
                raise RecipeError(
                    f"{where}: {shown(donor.get('path'))} is the out of no source or lora"
                )
        names = [donor["name"] for donor in donors.values()]
        for name in names:
            if names.count(name) > 1:
                raise RecipeError(f"recipe.parts.{part}: donor {shown(name)} stands in two places")


def part_donors(recipe: Mapping[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """The filled places of a part, in order."""
    donors = {}
    for place in (f"d{i}" for i in range(1, PLACES + 1)):
        where = f"recipe.parts.{part}.{place}"
        donor = _mapping(recipe["parts"][part].get(place) or {}, where)
        only(donor, _PLACE, where)
        if donor.get("name") is None:
            continue
        name_for_shell(donor["name"], where)
        if donor.get("density") is not None:
            number(donor["density"], f"{where}.density", low=0, high=1, low_open=True)
        number(donor.get("weight"), f"{where}.weight", low=0)
        if donor.get("vocabulary") is not None:
            one_of(donor["vocabulary"], f"{where}.vocabulary", ("truncate", "map"))
        donors[place] = dict(donor)
    return donors


def item(section: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """One entry of a section that a stage was started for."""
    if key not in section:
        raise RecipeError(f"{where} has no {shown(key)}; it has {', '.join(section) or 'nothing'}")
    return dict(_mapping(section[key], f"{where}.{key}"))


def number(
    value: Any,
    where: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    low_open: bool = False,
    whole: bool = False,
) -> float:
    """`value`, or RecipeError unless it is a finite number within the bounds."""
    kinds = int if whole else (int, float)
    # A YAML integer has as many digits as it likes: whole numbers beyond a float are no value here.
    fits = (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )
    if not fits or not (low < value if low_open else low <= value) or value > high:
        bounds = f"{'(' if low_open else '['}{low}, {high}]"
        kind = "a whole number" if whole else "a number"
        raise RecipeError(f"{where} is {shown(value)}; expected {kind} in {bounds}")
    return value


def one_of(value: Any, where: str, allowed: tuple[str, ...]) -> None:
    """RecipeError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise RecipeError(f"{where} is {shown(value)}; expected {', '.join(allowed)}")


def name_for_shell(name: Any, where: str) -> str:
    """Names reach a shell and paths through `dvc.yaml`: letters, digits, `_`, `.`, `-` only."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RecipeError(
            f"{where}: name {shown(name)} must be 1 to 64 letters, digits, '_', '.', '-' "
            "and must not begin with '.' or '-'"
        )
    return name


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where} is {shown(value)}; expected a table of entries")
    return dict(value)


def only(section: Any, known: set[str], where: str) -> None:
    """RecipeError for a key of `section` that is not known."""
    for key in _mapping(section, where):
        if key not in known:
            raise RecipeError(
                f"{where}: unknown key {shown(key)}; known are {', '.join(sorted(known))}"
            )


def shown(value: Any) -> str:
    """The value as an error shows it: on one line, of bounded length."""
    # reprlib stops at a depth and a length: anchors in YAML make little text a boundless value.
    return repr(printable(value, 80)) if isinstance(value, str) else printable(reprlib.repr(value))
