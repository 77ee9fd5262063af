"""The graph of a recipe: what each name means, and what the result is made of.

>>> graph = read_graph(recipe, sources)
>>> graph.nodes        # bakes and merges that the result needs, inputs first
('lookup', 'p1', 'p2', 'final')
>>> graph.sources      # sources that are used, by kind
{'base': 'model', 'reversal_lora': 'adapter', …}

A name is a node's or a source's. A node of a source's name stands for it everywhere but in itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from remerge.errors import RecipeError
from remerge.recipes.methods import Merge
from remerge.recipes.schema import Bake, Recipe, is_plain, label_of
from remerge.recipes.statements import STATEMENTS
from remerge.schema import nearest, shown


@dataclass(frozen=True)
class Input:
    """A model or adapter that a node reads: another node, or a source."""

    name: str
    is_node: bool


@dataclass(frozen=True)
class Graph:
    """What the result of a recipe is made of.

    Attributes:
        base: The base model.
        nodes: Bakes and merges that the result needs, each after its inputs.
        bakes: Model and adapter of each of these bakes.
        merges: Base and models by label of each of these merges.
        sources: The sources that are used, with their kind, `model` or `adapter`.
        references: The reference (an id or a path) of each source that is no plain name.
    """

    base: Input | None
    nodes: tuple[str, ...]
    bakes: dict[str, tuple[Input, Input]]
    merges: dict[str, tuple[Input | None, dict[str, Input]]]
    sources: dict[str, str]
    references: dict[str, str]


def base_of(recipe: Recipe, node: Merge) -> str | None:
    """Return the base of a node: its own, or the recipe's where the method must have one."""
    if node.base is not None or STATEMENTS[node.method].base != "required":
        return node.base
    return recipe.base


def read_graph(recipe: Recipe, known: Collection[str] | None = None) -> Graph:
    """Resolve the names of a recipe from its result on.

    Args:
        recipe: The recipe.
        known: Names of the pinned sources; None accepts every plain name as a source.

    Returns:
        The graph; what the result does not reach is not in it.

    Raises:
        RecipeError: A name that nothing has, two things of one name, a circle.
    """
    return _Reader(recipe, known).read()


def reads_of(recipe: Recipe, graph: Graph, name: str) -> dict[str, Input]:
    """Return what a node of the graph reads, by how the node calls it."""
    nodes = {*recipe.merges, *recipe.bakes}
    return {
        reference: Input(reference, is_node=True)
        if reference in nodes and reference != name
        else Input(label_of(reference), is_node=False)
        for reference, _, _ in _Reader(recipe, None).inputs(name)
    }


class _Reader:
    def __init__(self, recipe: Recipe, known: Collection[str] | None) -> None:
        self.recipe, self.known = recipe, known
        self.nodes: dict[str, Bake | Merge] = {**recipe.merges, **recipe.bakes}
        self.order: list[str] = []
        self.bakes: dict[str, tuple[Input, Input]] = {}
        self.merges: dict[str, tuple[Input | None, dict[str, Input]]] = {}
        self.sources: dict[str, str] = {}
        self.references: dict[str, str] = {}

    def read(self) -> Graph:
        recipe = self.recipe
        twice = sorted(recipe.bakes.keys() & recipe.merges.keys())
        if twice:
            raise RecipeError(f"recipe: {shown(twice[0])} is a bake and a merge; rename one")
        if recipe.result not in self.nodes:
            raise RecipeError(
                f"recipe.result is {shown(recipe.result)}; expected a node of the recipe, one of "
                f"{', '.join(self.nodes)}{nearest(recipe.result, self.nodes)}"
            )
        base = None
        if recipe.base is not None:
            base = self.resolve(recipe.base, "", "model", "recipe.base", used=False)
        self.visit(recipe.result, ())
        for name in self.nodes.keys() - set(self.order):  # wrong names are wrong everywhere
            for reference, kind, where in self.inputs(name):
                self.resolve(reference, name, kind, where, used=False)
        return Graph(
            base, tuple(self.order), self.bakes, self.merges, self.sources, self.references
        )

    def inputs(self, name: str) -> Iterator[tuple[str, str, str]]:
        """References of a node with the kind of each and its place in the recipe."""
        node = self.nodes[name]
        if isinstance(node, Bake):
            yield node.model, "model", f"recipe.bakes.{name}.model"
            yield node.adapter, "adapter", f"recipe.bakes.{name}.adapter"
            return
        where = f"recipe.merges.{name}"
        base = base_of(self.recipe, node)
        if base is not None:
            yield base, "model", f"{where}.base"
        for label, use in node.uses().items():
            yield use.model or label, "model", f"{where}.models.{label}"
        for reference in node.bases():
            yield reference, "model", f"{where}.slices"
        for reference in node.tokenizer_models():
            yield reference, "model", f"{where}.tokenizer"

    def visit(self, name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " → ".join([*above[above.index(name) :], name])
            raise RecipeError(f"recipe: a node is made of itself: {circle}")
        if name in self.order:
            return
        found = []
        for reference, kind, where in self.inputs(name):
            read = self.resolve(reference, name, kind, where)
            if read.is_node:
                self.visit(read.name, (*above, name))
            found.append(read)
        node = self.nodes[name]
        if isinstance(node, Bake):
            self.bakes[name] = (found[0], found[1])
        else:
            base = None if base_of(self.recipe, node) is None else found.pop(0)
            labels = list(node.uses())
            self.merges[name] = (base, dict(zip(labels, found[: len(labels)], strict=True)))
        self.order.append(name)

    def resolve(
        self, reference: str, within: str, kind: str, where: str, *, used: bool = True
    ) -> Input:
        """The node or source that a reference within a node means."""
        name = label_of(reference)
        if reference.rstrip("/").rpartition("/")[2] in ("", ".", ".."):
            raise RecipeError(f"{where} is {shown(reference)}; expected a path that ends in a name")
        if is_plain(reference) and reference in self.nodes and reference != within:
            if kind == "adapter":
                raise RecipeError(f"{where} is {shown(reference)}, a node; expected an adapter")
            return Input(reference, is_node=True)
        if is_plain(reference) and self.known is not None and name not in self.known:
            names = list(dict.fromkeys([*self.nodes, *self.known]))
            if not self.known:
                raise RecipeError(
                    f"{where} is {shown(reference)}, and no source is pinned: write "
                    f"conf/pins/{self.recipe.name}.yaml, or name the file of pins of another "
                    "recipe, such as `pins: tiny`"
                )
            raise RecipeError(
                f"{where} is {shown(reference)}, which is no node and no pinned source"
                f"{nearest(reference, names) or ';'} there are {', '.join(names)}"
            )
        if not used:
            return Input(name, is_node=False)
        if self.sources.setdefault(name, kind) != kind:
            raise RecipeError(f"{where} is {shown(reference)}, used as model and as adapter")
        if not is_plain(reference) and self.references.setdefault(name, reference) != reference:
            raise RecipeError(
                f"{where} is {shown(reference)}, and {shown(self.references[name])} would have the "
                f"same name {name}; name one of them in the file of pins"
            )
        return Input(name, is_node=False)
