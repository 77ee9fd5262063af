"""A project with a stage a node: what follows from its recipe, and the stages of its `dvc.yaml`.

>>> derive_project({"recipe": table}, pins)["nodes"]
{'final': {'out': 'merged/final', 'reads': {'base': 'models/base', …}}}

This repository's own `dvc.yaml` serves recipes of one shape; a project of its own serves any graph.
Its stages call the installed package, whose digest is a parameter that they depend on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remerge.code import digest_of
from remerge.errors import RecipeError
from remerge.recipes.graph import Graph, Input, base_of, read_graph, reads_of
from remerge.recipes.nodes import merges_of
from remerge.recipes.pins import Pin, check_uses, digest
from remerge.recipes.schema import Execution, Recipe, read_recipe
from remerge.recipes.tables import MODELS, Made
from remerge.recipes.values import Name
from remerge.schema import Table, nearest, read_table, shown

WRITTEN = ("recipe", "execution")
DERIVED = ("pins", "fetch", "nodes", "code")
#: Folders of code whose digest stages of a kind depend on.
CODE = {
    "fetch": ("adapters", "architectures", "shards", "sources", "tensors", "vocabulary"),
    "bake": (
        "adapters",
        "architectures",
        "arithmetic",
        "baking",
        "kernels",
        "shards",
        "tensors",
    ),
    "merge": (
        "adapters",
        "architectures",
        "arithmetic",
        "baking",
        "kernels",
        "merge",
        "methods",
        "shards",
        "tensors",
        "vocabulary",
    ),
}


class Node(Table):
    """A node: the folder that it makes, and what it reads by how the recipe calls it."""

    out: Made
    reads: dict[str, Made]


class Project(Table):
    """What is derived from the recipe of a project.

    Attributes:
        pins: A digest of the pin of each source; None while it is not pinned.
        fetch: Where each source lies.
        nodes: Every node that has a stage.
        code: Digests of the package's code by kind of stage.
    """

    pins: dict[Name, str | None]
    fetch: dict[Name, Made]
    nodes: dict[Name, Node]
    code: dict[str, str]


def derive_project(params: Mapping[str, Any], pins: Mapping[str, Pin]) -> dict[str, Any]:
    """Derive the tables of a project.

    Args:
        params: The written sections.
        pins: The pins of the recipe.

    Raises:
        RecipeError: What is written is wrong.
    """
    for key in params:
        if key not in WRITTEN:
            raise RecipeError(
                f"params: unknown key {shown(key)}{nearest(key, WRITTEN) or ';'} known are "
                f"{', '.join(WRITTEN)}"
            )
    recipe = read_recipe(params.get("recipe"))
    read_table(Execution, params.get("execution") or {}, "execution")
    if recipe.formats or recipe.score:
        key = "formats" if recipe.formats else "score"
        raise RecipeError(
            f"recipe.{key}: a project makes models; quantize and score them by `remerge quantize` "
            "and `remerge score`"
        )
    graph = read_graph(recipe)
    check_uses(pins, graph.sources, graph.references)
    merges_of(recipe)
    check_names(recipe, graph)
    sources = sorted(graph.sources)
    return {
        "pins": {name: digest(name, pins.get(name)) for name in sources},
        "fetch": {name: f"{MODELS[graph.sources[name]]}/{name}" for name in sources},
        "nodes": {
            name: {"out": _out(graph, name), "reads": _reads(recipe, graph, name)}
            for name in staged(recipe, graph)
        },
        "code": code_digests(),
    }


def code_digests() -> dict[str, str]:
    """Return the digest of the installed package's code for each kind of stage."""
    return {kind: digest_of(*folders) for kind, folders in CODE.items()}


def staged(recipe: Recipe, graph: Graph) -> list[str]:
    """Return the nodes that have a stage: all but those that are computed on the way."""
    return [
        name
        for name in graph.nodes
        if name in graph.bakes or not recipe.merges[name].fuse or name == recipe.result
    ]


def fused(recipe: Recipe, graph: Graph, name: str) -> list[str]:
    """Return the nodes that are computed within the stage of `name`, inputs first."""
    found: list[str] = []
    without = staged(recipe, graph)
    for read in reads_of(recipe, graph, name).values():
        if read.is_node and read.name not in without:
            found += [*fused(recipe, graph, read.name), read.name]
    return list(dict.fromkeys(found))


def check_names(recipe: Recipe, graph: Graph) -> None:
    """RecipeError for a node whose stage would have the name of another one."""
    fetches = {f"fetch_{name}" for name in graph.sources}
    for name in graph.nodes:
        if name in fetches:
            raise RecipeError(f"recipe: {name} is also the stage of a source; rename the node")


def dvc_stages(recipe: Recipe) -> dict[str, Any]:
    """Return the stages of a project's `dvc.yaml`, inputs first."""
    graph = read_graph(recipe)
    check_names(recipe, graph)
    stages: dict[str, Any] = {}
    # A parameter that is not written is not in params.yaml either.
    shard = ["recipe.shard_bytes"] if "shard_bytes" in recipe.model_fields_set else []
    for name in sorted(graph.sources):
        stages[f"fetch_{name}"] = {
            "cmd": f"python -m remerge.stages.source {name}",
            "params": [f"fetch.{name}", f"pins.{name}", *shard, "code.fetch"],
            "outs": [f"{MODELS[graph.sources[name]]}/{name}"],
        }
    for name in staged(recipe, graph):
        section = "bakes" if name in graph.bakes else "merges"
        inside = [] if name in graph.bakes else fused(recipe, graph, name)
        settings = [f"recipe.{section}.{name}", *(f"recipe.merges.{n}" for n in inside)]
        nodes = [recipe.merges[n] for n in (name, *inside) if n in recipe.merges]
        if any(node.base is None and base_of(recipe, node) for node in nodes):
            settings.append("recipe.base")
        kind = "bake" if name in graph.bakes else "merge"
        stages[name] = {
            "cmd": f"python -m remerge.stages.node {name}",
            "params": [*settings, f"nodes.{name}", "recipe.dtype", *shard, f"code.{kind}"],
            "deps": list(dict.fromkeys(_reads(recipe, graph, name).values())),
            "outs": [_out(graph, name)],
        }  # fmt: skip
    return stages


def _reads(recipe: Recipe, graph: Graph, name: str) -> dict[str, str]:
    """Folders that the stage of a node reads, those of nodes within it included."""
    inside = [] if name in graph.bakes else fused(recipe, graph, name)
    found: dict[str, str] = {}
    for node in (name, *inside):
        for reference, read in reads_of(recipe, graph, node).items():
            if not (read.is_node and read.name in inside):
                found[reference] = _place(graph, read)
    return found


def _place(graph: Graph, read: Input) -> str:
    if read.is_node:
        return _out(graph, read.name)
    return f"{MODELS[graph.sources[read.name]]}/{read.name}"


def _out(graph: Graph, name: str) -> str:
    return f"{'baked' if name in graph.bakes else 'merged'}/{name}"


def read_project(params: Mapping[str, Any]) -> tuple[Recipe, Execution, Project]:
    """Read the parameters of a project as they were composed; RecipeError where one is wrong."""
    known = (*WRITTEN, *DERIVED, "composed")
    for key in params:
        if key not in known:
            raise RecipeError(
                f"params.yaml: unknown key {shown(key)}{nearest(key, known) or ';'} known are "
                f"{', '.join(known)}"
            )
    tables = read_table(Project, {key: params.get(key) for key in DERIVED}, "params")
    execution = read_table(Execution, params.get("execution") or {}, "execution")
    return read_recipe(params.get("recipe")), execution, tables
