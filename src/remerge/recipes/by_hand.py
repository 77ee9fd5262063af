"""A recipe as commands that do it step by step, for a graph that a project has no stages for.

>>> commands(recipe, graph, pins, ties)
['remerge ties models/base models/a:0.33 models/b:0.33 --dtype float16 --out outputs/mine']
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from remerge.recipes.graph import Graph, Input
from remerge.recipes.methods import Gradient, GradientSection, Merge, TiesSection
from remerge.recipes.pins import Pin
from remerge.recipes.schema import Recipe
from remerge.recipes.tables import MODELS

#: Where the results lie: git passes over it, and no stage writes there.
_OUT = "outputs"


def commands(
    recipe: Recipe,
    graph: Graph,
    pins: Mapping[str, Pin],
    ties: TiesSection,
    gradient: GradientSection,
) -> list[str]:
    """Return a command for each node of the graph, inputs first.

    Args:
        recipe: The recipe.
        graph: What its result is made of.
        pins: The pins of its sources, whose folders are read where they are safetensors.
        ties: Defaults of TIES.
        gradient: Defaults of the gradient merge.

    Returns:
        Command lines; none for a recipe that uses what `remerge ties` and `gradient` lack.
    """
    made: list[str] = []
    for name in graph.nodes:
        if name in graph.bakes:
            words = ["bake", *(_folder(read, graph, pins) for read in graph.bakes[name])]
        else:
            node = recipe.merges[name]
            base, models = graph.merges[name]
            folders = [_folder(read, graph, pins) for read in models.values()]
            if _is_plain_ties(node) and base is not None:
                words = ["ties", _folder(base, graph, pins), *_donors(node, folders, ties)]
            elif isinstance(node, Gradient) and _is_plain(node, gradient):
                words = ["gradient", *folders, *map(str, node.values or gradient.values)]
            else:
                return []
        line = ["remerge", *words, "--dtype", recipe.dtype, "--out", f"{_OUT}/{name}"]
        made.append(shlex.join(line))
    return made


def _is_plain_ties(node: Merge) -> bool:
    """Whether `remerge ties` can do the node: one value a donor, and none of mergekit's options."""
    given = [node.given(), *(use.given() for use in node.uses().values())]
    values = [value for table in given for value in table.values()]
    options = {"rescale", "divide_by"} & node.given().keys()
    plain = node.models is not None and not options and not (node.dtype or node.tokenizer)
    return node.method == "ties" and plain and not any(isinstance(v, list) for v in values)


def _donors(node: Merge, folders: Sequence[str], defaults: TiesSection) -> list[str]:
    """Donors as `remerge ties` takes them: FOLDER:DENSITY:WEIGHT:VOCABULARY, and its options."""
    given = []
    values = {**defaults.model_dump(by_alias=True), "weight": 1.0, **node.given()}
    for use, folder in zip(node.uses().values(), folders, strict=True):
        own = {**values, **use.given()}
        parts = [folder, str(own["density"]), str(own["weight"]), use.vocabulary or ""]
        given.append(":".join(parts).removesuffix(":").removesuffix(":1.0"))
    options = [] if values["lambda"] == 1 else ["--lambda", str(values["lambda"])]
    options += [] if values["normalize"] else ["--no-normalize"]
    return given + options + ([] if values["elect"] == "sum" else ["--elect", values["elect"]])


def _folder(read: Input, graph: Graph, pins: Mapping[str, Pin]) -> str:
    """Where a model lies: a node's output, a folder of safetensors, or what `fetch` makes."""
    if read.is_node:
        return f"{_OUT}/{read.name}"
    pin = pins.get(read.name)
    pickled = pin is not None and any(file.endswith(".bin") for file in pin.files or {})
    if pin is not None and pin.path and not pin.dequantize and not pickled:
        return pin.path
    return f"{MODELS[graph.sources[read.name]]}/{read.name}"


def _is_plain(node: Gradient, defaults: GradientSection) -> bool:
    """Whether a gradient runs along all tensors, as `remerge gradient` does without options."""
    settings = (node.along or defaults.along, node.blend or defaults.blend)
    containing = defaults.containing if node.containing is None else node.containing
    return settings == ("tensors", "all") and not containing
