"""A recipe as commands that do it step by step, for a graph that a project has no stages for.

>>> commands(recipe, graph, pins, ties)
['remerge ties models/base models/a:0.33 models/b:0.33 --dtype float16 --out outputs/mine']
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from remerge.recipes.graph import Graph, Input
from remerge.recipes.methods import Gradient, GradientSection, Ties, TiesSection
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
            if isinstance(node, Ties):
                words = ["ties", _folder(base, graph, pins), *_donors(node, folders, ties)]
            elif isinstance(node, Gradient) and _is_plain(node, gradient):
                words = ["gradient", *folders, *map(str, node.values or gradient.values)]
            else:
                return []
        line = ["remerge", *words, "--dtype", recipe.dtype, "--out", f"{_OUT}/{name}"]
        made.append(shlex.join(line))
    return made


def _donors(node: Ties, folders: Sequence[str], defaults: TiesSection) -> list[str]:
    """Donors as `remerge ties` takes them: FOLDER:DENSITY:WEIGHT:VOCABULARY, and its options."""
    given = []
    for use, folder in zip(node.models.values(), folders, strict=True):
        density = next(d for d in (use.density, node.density, defaults.density) if d is not None)
        parts = [folder, str(density), str(use.weight), use.vocabulary or ""]
        given.append(":".join(parts).removesuffix(":").removesuffix(":1.0"))
    lam = defaults.lam if node.lam is None else node.lam
    normalize = defaults.normalize if node.normalize is None else node.normalize
    elect = node.elect or defaults.elect
    options = [] if lam == 1 else ["--lambda", str(lam)]
    options += [] if normalize else ["--no-normalize"]
    return given + options + ([] if elect == "sum" else ["--elect", elect])


def _folder(read: Input, graph: Graph, pins: Mapping[str, Pin]) -> str:
    """Where a model lies: a node's output, a folder of safetensors, or what `fetch` makes."""
    if read.is_node:
        return f"{_OUT}/{read.name}"
    pin = pins.get(read.name)
    if pin is not None and pin.path and not any(f.endswith(".bin") for f in pin.files or {}):
        return pin.path
    return f"{MODELS[graph.sources[read.name]]}/{read.name}"


def _is_plain(node: Gradient, defaults: GradientSection) -> bool:
    """Whether a gradient runs along all tensors, as `remerge gradient` does without options."""
    settings = (node.along or defaults.along, node.blend or defaults.blend)
    containing = defaults.containing if node.containing is None else node.containing
    return settings == ("tensors", "all") and not containing
