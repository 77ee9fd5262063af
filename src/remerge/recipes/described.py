"""A recipe and its parameters as report, proof and preflight read them: one table with paths.

>>> described(params, pins)["recipe"]["sources"]["chronos"]["out"]
'models/chronos'
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remerge.errors import RecipeError
from remerge.recipes.pins import FOLDER, Pin, read_pins, table_of
from remerge.recipes.schema import Recipe, is_path, pins_names, read_recipe
from remerge.recipes.tables import FINAL, PARTS, UNUSED, Tables, read_tables

_KEPT = ("name", "title", "titles", "prompt", "dtype", "shard_bytes", "licence", "assumptions")


def pins_of(params: Mapping[str, Any], folder: Path = FOLDER) -> dict[str, Pin]:
    """Read the pins of the recipe and the suite of some parameters."""
    recipe = read_recipe(params.get("recipe"))
    suite = params.get("eval")
    name = suite.get("suite") if isinstance(suite, Mapping) else None
    names = [*pins_names(recipe), *([name] if isinstance(name, str) else [])]
    return read_pins(folder, list(dict.fromkeys(names)))


def described(params: Mapping[str, Any], pins: Mapping[str, Pin]) -> dict[str, Any]:
    """Describe what is built, every model with its folder and every source with its pin.

    Args:
        params: The parameters as they were composed.
        pins: The pins of the recipe and its suite.

    Returns:
        The parameters, the recipe with `sources`, `loras`, `parts` and the folder of its base.

    Raises:
        RecipeError: Parameters that are not sound, or whose tables are not of their recipe.
    """
    recipe, tables = read_recipe(params.get("recipe")), read_tables(params)
    written = params["recipe"]
    table = {key: written[key] for key in _KEPT if key in written}
    table["base"] = tables.places.base
    table["sources"] = {
        name: {**_entry(name, out, recipe, pins), "out": out} for name, out in tables.fetch.items()
    }
    table["loras"] = {name: entry.model_dump() for name, entry in tables.bake_loras.items()}
    table["parts"] = {part: _part(recipe, part, tables.places.models(part)) for part in PARTS}
    items = tables.quantize_eval
    return {
        **{key: value for key, value in params.items() if key not in _DERIVED},
        "recipe": table,
        "quantize_eval": {
            name: {"kind": entry.kind, **entry.model_dump()} for name, entry in items.items()
        },
        "report": {
            "data": {"evaluation": tables.report.data},
            "collected": tables.report.collected,
            "scores": _score_places(tables),
            "formats": {n: entry.out for n, entry in items.items() if entry.kind == "quantize"},
            "quants": {
                entry.out.partition("/")[2]: entry.out
                for entry in items.values()
                if entry.kind == "evaluate" and entry.reads.startswith("quantized/")
            },
        },
    }


_DERIVED = ("pins", "fetch", "bake_loras", "places", "digests", "description", "collect")


def _score_places(tables: Tables) -> dict[str, str]:
    """Where the scores of base, donors, parts and result lie, of those that are scored."""
    scored = {e.reads: e.out for e in tables.quantize_eval.values() if e.kind == "evaluate"}
    models = {"base": tables.places.base}
    for part in PARTS:
        folders = tables.places.models(part)
        models |= {f"{part}_d{i}": folder for i, folder in enumerate(folders, 1)}
    models |= {part: f"merged/{part}" for part in PARTS} | {"final": FINAL}
    return {place: scored[folder] for place, folder in models.items() if folder in scored}


def _entry(name: str, out: str, recipe: Recipe, pins: Mapping[str, Pin]) -> dict[str, Any]:
    """A source's pin as a table; of one without a pin, what the recipe says."""
    if name in pins:
        return table_of(pins[name])
    kind = {"models": "model", "adapters": "adapter"}.get(out.partition("/")[0], "dataset")
    for reference in _references(recipe):
        if reference.partition("@")[0].rstrip("/").endswith(f"/{name}"):
            origin = (
                {"path": reference} if is_path(reference) else {"repo": reference.partition("@")[0]}
            )
            return {"kind": kind, **origin}
    return {"kind": kind, "repo": name}


def _references(recipe: Recipe) -> list[str]:
    found = [] if recipe.base is None else [recipe.base]
    for bake in recipe.bakes.values():
        found += [bake.model, bake.adapter]
    for merge in recipe.merges.values():
        found += [use.model or label for label, use in merge.uses().items()]
    return found


def _part(recipe: Recipe, part: str, folders: list[str]) -> dict[str, Any]:
    """The donors of a part in their places."""
    models = recipe.merges[part].uses() if part in recipe.merges else {}
    if len(models) != len(folders) or UNUSED in folders:
        raise RecipeError(
            f"places.{part} has {len(folders)} models and recipe.merges.{part} {len(models)}; "
            "compose the parameters again (`make params`)"
        )
    return {
        f"d{i}": {
            "name": label,
            "path": folder,
            "density": use.given().get("density"),
            "weight": use.given().get("weight", 1.0),
            "vocabulary": use.vocabulary,
        }
        for i, ((label, use), folder) in enumerate(zip(models.items(), folders, strict=True), 1)
    }
