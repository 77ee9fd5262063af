"""The tables that follow from a recipe, by pure functions.

>>> derive(params, pins)["fetch"]
{'base': 'models/base', 'chronos': 'models/chronos', …}

Nothing of this is written by hand: where sources lie, what is baked, the places of the parts, the
items of quantize_eval, what is collected of them for the report. What the result does not reach is
in no table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from remerge.code import ITEMS
from remerge.errors import RecipeError
from remerge.quantize.formats import FORMATS, choose
from remerge.recipes.by_hand import commands
from remerge.recipes.graph import Graph, Input, read_graph
from remerge.recipes.methods import GradientSection, TiesSection
from remerge.recipes.pins import Pin, check_uses, digest
from remerge.recipes.schema import (
    SECTIONS,
    FormatUse,
    Quantize,
    Recipe,
    is_hub,
    nearest_setting,
    read_recipe,
    read_section,
)
from remerge.recipes.tables import COLLECTED, FINAL, MODELS, PARTS, PLACES, UNUSED
from remerge.schema import nearest, shown

#: What a person writes; the rest of `params.yaml` is derived from it.
WRITTEN = ("recipe", "ties", "gradient", "eval", "quantize", "execution")
DERIVED = (
    "pins",
    "fetch",
    "bake_loras",
    "places",
    "quantize_eval",
    "digests",
    "description",
    "collect",
    "report",
)
#: What a node may say that the stages of this repository do not do.
_OF_PROJECTS = ("slices", "modules", "dtype", "tokenizer", "chat_template", "fuse")
_SHAPE = "this repository builds two TIES parts p1 and p2 and a gradient merge of both"


def derive(params: Mapping[str, Any], pins: Mapping[str, Pin]) -> dict[str, Any]:
    """Derive all tables of `params.yaml` from what is written.

    Args:
        params: The written sections.
        pins: The pins of the recipe and its suite.

    Returns:
        The derived tables, as `tables.Tables` reads them.

    Raises:
        RecipeError: What is written is wrong, or is a graph that this repository has no stages for.
    """
    for key in params:
        if key not in WRITTEN:
            raise RecipeError(
                f"params: unknown key {shown(key)}"
                f"{nearest_setting(str(key)) or nearest(key, WRITTEN) or ';'} "
                f"known are {', '.join(WRITTEN)}"
            )
    recipe = read_recipe(params.get("recipe"))
    for name, model in SECTIONS.items():
        if name == "quantize" and name not in params:
            raise RecipeError(
                "quantize=[] names no format; for none of them use quantize=none, else one of "
                "default, exact, all or a list such as quantize=[gguf_q4_k_m]"
            )
        read_section(model, params, name)
    graph = read_graph(recipe, pins)
    check_uses(pins, graph.sources, graph.references)
    _check_shape(recipe, graph, _advice(recipe, graph, pins, params))
    assert graph.base is not None
    base = folder_of(graph, graph.base)
    settings = read_section(Quantize, params, "quantize")
    evaluation = params["eval"]
    parts = {part: _folders(graph, part) for part in PARTS}
    scored = _scored(recipe, graph)
    formats = _formats(recipe)
    sources = dict(graph.sources)
    if scored or any(use.score for use in formats.values()):
        sources |= dict.fromkeys(_datasets(evaluation), "dataset")
        check_uses(pins, sources, {})
    data = str(evaluation.get("data") or UNUSED)
    quants = [name for name, use in formats.items() if use.score]
    described = _description(recipe, graph, pins)
    items: dict[str, Any] = {name: _format_item(name, settings) for name in formats}
    for label, folder in {**scored, **{name: f"quantized/{name}" for name in quants}}.items():
        items[f"score_{label}"] = _item("evaluate", "eval", folder, data, f"scores/{label}")
    collections = _collections([item["out"] for item in items.values()])
    ordered = sorted(name for name in sources)
    return {
        "pins": {name: digest(name, pins.get(name)) for name in ordered},
        "fetch": {name: f"{MODELS[sources[name]]}/{name}" for name in ordered},
        "bake_loras": {
            name: {
                "model": folder_of(graph, model),
                "adapter": f"adapters/{adapter.name}",
                "out": f"baked/{name}",
            }
            for name, (model, adapter) in _in_written_order(recipe, graph).items()
        },
        "places": {
            "base": base,
            **{part: _places(list(parts[part].values())) for part in PARTS},
        },
        "quantize_eval": items,
        "digests": _digests(settings, evaluation, described),
        "description": described,
        "collect": collections,
        "report": {
            "data": data if scored or quants else UNUSED,
            "collected": [UNUSED, *(entry["out"] for entry in collections.values())][-1],
        },
    }


def folder_of(graph: Graph, read: Input) -> str:
    """Return the folder in which a node or source lies."""
    if not read.is_node:
        return f"{MODELS[graph.sources[read.name]]}/{read.name}"
    return f"{'baked' if read.name in graph.bakes else 'merged'}/{read.name}"


def _in_written_order(recipe: Recipe, graph: Graph) -> dict[str, tuple[Input, Input]]:
    return {name: graph.bakes[name] for name in recipe.bakes if name in graph.bakes}


def _advice(
    recipe: Recipe, graph: Graph, pins: Mapping[str, Pin], params: Mapping[str, Any]
) -> str:
    """What builds a graph of another shape."""
    by_hand = commands(
        recipe,
        graph,
        pins,
        read_section(TiesSection, params, "ties"),
        read_section(GradientSection, params, "gradient"),
    )
    step_by_step = f": {' && '.join(by_hand)}" if by_hand else ""
    return (
        f"{_SHAPE}; any other recipe, of one step too, is merged by hand{step_by_step}; or "
        "make a project of its own with `remerge new FOLDER --from FILE`"
    )


def _check_shape(recipe: Recipe, graph: Graph, advice: str) -> None:
    """RecipeError unless the graph is the one that this repository's `dvc.yaml` has stages for."""
    methods = {name: recipe.merges[name].method for name in graph.merges}
    if methods != {"p1": "ties", "p2": "ties", "final": "gradient"} or recipe.result != "final":
        raise RecipeError(f"recipe.merges: {advice}")
    _check_plain(recipe, advice)
    final = recipe.merges["final"]
    if [read.name for read in graph.merges["final"][1].values()] != list(PARTS):
        raise RecipeError(f"recipe.merges.final.models: expected [p1, p2]; {advice}")
    own_bases = any(merge.base for merge in recipe.merges.values())
    if graph.base is None or graph.base.is_node or own_bases:
        raise RecipeError(f"recipe: a base of a node's own; {advice}")
    if any(use.vocabulary for use in final.uses().values()):
        raise RecipeError("recipe.merges.final: both parts have the base's vocabulary already")
    for part in PARTS:
        folders = _folders(graph, part)
        if any(
            read.name in graph.merges and read.is_node for read in graph.merges[part][1].values()
        ):
            raise RecipeError(f"recipe.merges.{part}.models: {advice}")
        if len(folders) > PLACES:
            raise RecipeError(
                f"recipe.merges.{part}.models: {len(folders)} models, but this repository's "
                f"dvc.yaml has {PLACES} places a part: add dependencies to stage ties_{part}, or "
                "use `remerge ties`, which takes any number"
            )
        seen: dict[str, str] = {}
        for label, folder in folders.items():
            if folder in seen:
                raise RecipeError(
                    f"recipe.merges.{part}.models.{label}: is the same model as {seen[folder]}"
                )
            seen[folder] = label


def _check_plain(recipe: Recipe, advice: str) -> None:
    """RecipeError for what the stages of this repository do not do, though a recipe may say it."""
    if recipe.dtype == "auto":
        raise RecipeError(f"recipe.dtype is auto; {advice}")
    for name, node in recipe.merges.items():
        where = f"recipe.merges.{name}"
        for key in (*_OF_PROJECTS, "rescale", "divide_by"):
            if getattr(node, key, None):
                raise RecipeError(f"{where}.{key}: {advice}")
        given = [(where, node.given())] if name != "final" else []
        given += [(f"{where}.models.{label}", use.given()) for label, use in node.uses().items()]
        for place, parameters in given:
            for key, value in parameters.items():
                if isinstance(value, list | Mapping):
                    raise RecipeError(f"{place}.{key}: a value by tensor; {advice}")


def _folders(graph: Graph, part: str) -> dict[str, str]:
    return {label: folder_of(graph, read) for label, read in graph.merges[part][1].items()}


def _places(folders: list[str]) -> dict[str, str]:
    filled = folders + [UNUSED] * (PLACES - len(folders))
    return {f"d{i}": folder for i, folder in enumerate(filled, start=1)}


def _scored(recipe: Recipe, graph: Graph) -> dict[str, str]:
    """Folders of the models that are scored, by label."""
    assert graph.base is not None
    known = {"base": folder_of(graph, graph.base)}
    for part in PARTS:
        for label, folder in _folders(graph, part).items():
            if known.setdefault(label, folder) != folder or label in (*PARTS, "final", "base"):
                raise RecipeError(
                    f"recipe.merges.{part}.models.{label}: another model has that name; scores "
                    "need a name a model"
                )
    known |= {part: f"merged/{part}" for part in PARTS} | {"final": FINAL}
    if recipe.score == "all":
        return known
    for position, name in enumerate(recipe.score):
        if name not in known:
            raise RecipeError(
                f"recipe.score[{position}] is {shown(name)}; expected one of {', '.join(known)}"
                f"{nearest(name, known)}"
            )
    return {name: folder for name, folder in known.items() if name in recipe.score}


def _collections(outs: Sequence[str]) -> dict[str, Any]:
    """Items of collect, each with what the one before it collected: DVC takes no list of deps."""
    found: dict[str, Any] = {}
    after = UNUSED
    for number, start in enumerate(range(0, len(outs), COLLECTED), 1):
        folders = list(outs[start : start + COLLECTED])
        folders += [UNUSED] * (COLLECTED - len(folders))
        out = f"collected/{number}.json"
        places = {f"d{i}": folder for i, folder in enumerate(folders, 1)}
        found[f"c{number}"] = {"after": after, "folders": places, "out": out}
        after = out
    return found


def _digests(
    settings: Quantize, evaluation: Mapping[str, Any], described: Mapping[str, Any]
) -> dict[str, str]:
    """SHA-256 of what items read; published scores are only compared with."""
    read: dict[str, Any] = {
        name: getattr(settings, name).model_dump() for name in ("gguf", "ggml", "gptq")
    }
    read["gguf"]["description"] = dict(described)
    read["eval"] = {k: v for k, v in evaluation.items() if k not in ("published", "tolerance")}
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        for name, value in read.items()
    }


def _formats(recipe: Recipe) -> dict[str, FormatUse]:
    """Formats by name, in the order written; `exact` and `all` in the order of the table."""
    found: dict[str, FormatUse] = {}
    for name, use in recipe.formats.items():
        if name not in FORMATS and name not in ("all", "exact"):
            known = [*FORMATS, "exact", "all"]
            raise RecipeError(
                f"recipe.formats: {shown(name)} is no format{nearest(name, known) or ';'} "
                f"known are {', '.join(known)}"
            )
        found |= {entry.name: use for entry in choose([name])}
    return found


def _description(recipe: Recipe, graph: Graph, pins: Mapping[str, Pin]) -> dict[str, Any]:
    """What files say of the model to people; nothing without `recipe.tags`."""
    if recipe.tags is None:
        return {}
    repos = [
        pins[name].repo if name in pins else graph.references.get(name, "").partition("@")[0]
        for name in graph.sources
    ]
    known = {
        "license": recipe.licence and recipe.licence.lower(),
        "base_model": list(dict.fromkeys(repo for repo in repos if is_hub(repo))),
        "tags": recipe.tags,
    }
    return {key: value for key, value in known.items() if value}


def _format_item(name: str, settings: Quantize) -> dict[str, str]:
    container = FORMATS[name].container
    own = getattr(settings, container)
    item = _item(container, container, FINAL, own.texts, f"quantized/{name}")
    return item | ({"also": own.calibration} if own.calibration else {})


def _item(code: str, section: str, reads: str, data: str, out: str) -> dict[str, str]:
    # DVC wants a path for each dependency: what an item has fewer of is named again.
    own, core, also = (f"src/remerge/{path}" for path in (*ITEMS[code], ITEMS[code][-1])[:3])
    return {
        "section": f"digests.{section}",
        "reads": reads,
        "data": data,
        "own": own,
        "core": core,
        "also": also,
        "out": out,
    }


def _datasets(evaluation: Mapping[str, Any]) -> list[str]:
    """Names of the data sets that a suite reads: those whose data lies where `fetch` puts them."""
    found = []
    for task in (evaluation.get("tasks") or {}).values():
        path = PurePosixPath(str(task.get("data") if isinstance(task, Mapping) else ""))
        if len(path.parts) > 1 and path.parts[0] == MODELS["dataset"]:
            found.append(path.parts[1])
    return found
