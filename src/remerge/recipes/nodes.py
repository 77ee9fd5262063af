"""The nodes of a recipe as merges that can be planned and run.

>>> merges = merges_of(recipe)
>>> [merge.name for merge in merges]
['p1', 'p2', 'final']
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remerge.errors import RecipeError
from remerge.methods.gradient import Gradient
from remerge.methods.registry import METHODS
from remerge.recipes.graph import base_of, read_graph
from remerge.recipes.mergekit.reading import read_tokenizer
from remerge.recipes.mergekit.references import Reference
from remerge.recipes.merges import Merge, Module, OutputSlice, SourceUse
from remerge.recipes.methods import Gradient as GradientNode
from remerge.recipes.methods import GradientSection, Slice, TiesSection, Use
from remerge.recipes.methods import Merge as Node
from remerge.recipes.schema import Recipe
from remerge.recipes.tables import MODELS
from remerge.tensors.dtypes import from_torch_name


def merges_of(
    recipe: Recipe,
    ties: TiesSection | None = None,
    gradient: GradientSection | None = None,
) -> list[Merge]:
    """Return the merges of a recipe in the order in which they are written.

    Args:
        recipe: The recipe.
        ties: Defaults for nodes of TIES, in a project that has a section of them.
        gradient: The same for gradient merges.

    Raises:
        RecipeError: A gradient merge without values.
    """
    sections = {} if ties is None else {"ties": ties.model_dump(by_alias=True)}
    return [
        _merge(recipe, name, node, sections.get(node.method, {}), gradient)
        for name, node in recipe.merges.items()
    ]


def folders_of(recipe: Recipe) -> dict[str, str]:
    """Return where everything that the result of a recipe reads lies, by what a node calls it."""
    graph = read_graph(recipe)
    found = {name: f"baked/{name}" for name in graph.bakes}
    for name, kind in graph.sources.items():
        folder = f"{MODELS[kind]}/{name}"
        if name not in found:
            found[name] = folder
        reference = graph.references.get(name)
        if reference is not None:
            found[reference] = folder
    return found


def _merge(
    recipe: Recipe,
    name: str,
    node: Node,
    section: Mapping[str, Any],
    defaults: GradientSection | None,
) -> Merge:
    where = f"recipe.merges.{name}"
    base = base_of(recipe, node)
    base_reference = None if base is None else Reference(base)
    gradient = None
    parameters = {**section, **node.given()}
    if isinstance(node, GradientNode):
        gradient, parameters = _gradient(node, defaults, where), {}
    modules = []
    if node.modules is None:
        slices = _slices(node.models, node.slices, base_reference)
        modules.append(Module(None, slices, {}))
    for label, part in (node.modules or {}).items():
        slices = _slices(part.models, part.slices, base_reference)
        modules.append(Module(label, slices, part.given()))
    dtype = node.dtype or recipe.dtype
    return Merge(
        place=where,
        name=name,
        method=METHODS[node.method],
        base=base_reference,
        modules=tuple(modules),
        parameters=parameters,
        dtype=None if dtype == "auto" else from_torch_name(dtype),
        tokenizer=read_tokenizer(node.tokenizer, where),
        chat_template=node.chat_template,
        gradient=gradient,
    )


def _slices(
    models: Mapping[str, Use] | None, slices: list[Slice] | None, base: Reference | None
) -> tuple[OutputSlice, ...]:
    if models is not None:
        uses = tuple(_use(label, use, None) for label, use in models.items())
        return (OutputSlice(uses, None, {}),)
    return tuple(
        OutputSlice(
            tuple(_use(n, use, (use.layers[0], use.layers[1])) for n, use in piece.models.items()),
            None if piece.base is None else Reference(piece.base),
            piece.given(),
        )
        for piece in slices or []
    )


def _use(label: str, use: Use, layers: tuple[int, int] | None) -> SourceUse:
    return SourceUse(Reference(use.model or label), layers, use.given(), use.vocabulary)


def _gradient(node: GradientNode, section: GradientSection | None, where: str) -> Gradient:
    values = node.values or (section.values if section else None)
    if values is None:
        raise RecipeError(f"{where}.values is missing; expected at least two numbers in [0, 1]")
    containing = node.containing
    if containing is None:
        containing = section.containing if section else ""
    return Gradient(
        values=tuple(float(value) for value in values),
        along=node.along or (section.along if section else "tensors"),
        blend=node.blend or (section.blend if section else "all"),
        containing=containing,
    )
