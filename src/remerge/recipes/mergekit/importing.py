"""A mergekit file as a recipe.

>>> recipe = imported(read_merges(path), "my-model")
>>> print(recipe_text(recipe))

The recipe says the same merge in this project's words. What mergekit works with where its default
is not the method's own is written down, so that the recipe alone gives mergekit's result.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from remerge.errors import RecipeError
from remerge.methods.method import REQUIRED
from remerge.recipes.mergekit.references import Reference
from remerge.recipes.merges import Merge, Module, OutputSlice, SourceUse, TokenizerChoice
from remerge.recipes.schema import is_hub, is_plain, label_of, read_recipe
from remerge.recipes.values import plain_name
from remerge.tensors.dtypes import to_torch_name


def imported(merges: Sequence[Merge], name: str, result: Merge) -> dict[str, Any]:
    """Turn the merges of a mergekit file into a recipe.

    Args:
        merges: All documents.
        name: What the recipe is called.
        result: The document whose result it is.

    Returns:
        The recipe as a table, which `read_recipe` reads.

    Raises:
        RecipeError: A name that no node can have.
    """
    return _Importer(merges, name, result).recipe()


class _Importer:
    def __init__(self, merges: Sequence[Merge], name: str, result: Merge) -> None:
        self.merges, self.name, self.result = merges, name, result
        self.nodes = {merge.name: self.node_name(merge) for merge in merges if merge.name}
        self.labels: dict[Reference, str] = {}
        self.bakes: dict[str, dict[str, str]] = {}

    def node_name(self, merge: Merge) -> str:
        try:
            return plain_name(merge.name or "final")
        except ValueError as error:
            raise RecipeError(f"{merge.place}: {error}") from None

    def recipe(self) -> dict[str, Any]:
        used: list[Merge] = []
        self.collect(self.result, used)
        dtype = _dtype(self.result.dtype)
        nodes = {self.node_name(merge): self.node(merge, dtype) for merge in used}
        if len(nodes) < len(used):
            raise RecipeError(f"{self.result.place}: a document is called final; rename it")
        recipe: dict[str, Any] = {"name": self.name, "dtype": dtype}
        if self.bakes:
            recipe["bakes"] = self.bakes
        recipe |= {"merges": nodes, "result": self.node_name(self.result)}
        read_recipe(recipe)
        return recipe

    def collect(self, merge: Merge, used: list[Merge]) -> None:
        named = {each.name: each for each in self.merges if each.name}
        for reference in merge.references():
            inner = named.get(reference.model)
            if inner is not None and reference.revision is None and inner not in used:
                self.collect(inner, used)
        if merge not in used:
            used.append(merge)

    def reference(self, reference: Reference) -> str:
        """What a node calls a model: a node of the recipe, a hub id or a path."""
        if reference.adapter is not None:
            name = self.label(reference)
            self.bakes[name] = {
                "model": self.reference(reference.without_adapter),
                "adapter": _source(Reference(reference.adapter, reference.adapter_revision)),
            }
            return name
        if reference.revision is None and reference.model in self.nodes:
            return self.nodes[reference.model]
        return _source(reference)

    def label(self, reference: Reference) -> str:
        """A name that no other model of the file has."""
        if reference.revision is None and reference.adapter is None:
            node = self.nodes.get(reference.model)
            if node is not None:
                return node
        if reference not in self.labels:
            plain = label_of(_source(reference.without_adapter))
            if reference.adapter is not None:
                plain = f"{plain}_{label_of(reference.adapter)}"[:64]
            taken = {*self.labels.values(), *self.nodes.values(), "final"}
            number, label = 2, plain
            while label in taken:
                number, label = number + 1, f"{plain[:60]}_{number}"
            self.labels[reference] = label
        return self.labels[reference]

    def node(self, merge: Merge, dtype: str) -> dict[str, Any]:
        node: dict[str, Any] = {"method": merge.method.name}
        if merge.base is not None:
            node["base"] = self.reference(merge.base)
        own = _dtype(merge.dtype)
        if own != dtype:
            node["dtype"] = own
        if merge.tokenizer is not None:
            node["tokenizer"] = self.tokenizer(merge.tokenizer)
        if merge.chat_template is not None:
            node["chat_template"] = merge.chat_template
        if merge.modules[0].name is None:
            node |= self.part(merge, merge.modules[0])
        else:
            node["modules"] = {
                module.name: {**self.part(merge, module), **module.parameters}
                for module in merge.modules
            }
        implied = {k: v for k, v in merge.defaults.items() if v != REQUIRED}
        return {**node, **implied, **merge.parameters}

    def part(self, merge: Merge, module: Module) -> dict[str, Any]:
        whole = len(module.slices) == 1 and all(
            use.layers is None for use in module.slices[0].sources
        )
        if whole:
            uses = module.slices[0].sources
            # A base that only takes part as one is not among the models.
            if merge.method.base != "none":
                uses = tuple(use for use in uses if use.model != merge.base)
            return {"models": self.uses(uses)}
        return {"slices": [self.slice(piece) for piece in module.slices]}

    def slice(self, piece: OutputSlice) -> dict[str, Any]:
        entry: dict[str, Any] = {"models": self.uses(piece.sources)}
        if piece.base is not None:
            entry["base"] = self.reference(piece.base)
        return {**entry, **piece.parameters}

    def uses(self, sources: Sequence[SourceUse]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for use in sources:
            label, reference = self.label(use.model), self.reference(use.model)
            entry: dict[str, Any] = {} if reference == label else {"model": reference}
            if use.layers is not None:
                entry["layers"] = list(use.layers)
            found[label] = {**entry, **use.parameters} or None
        return found

    def tokenizer(self, choice: TokenizerChoice) -> Any:
        source = choice.source
        named = source if isinstance(source, str) else self.reference(source)
        if not choice.tokens and choice.pad_to_multiple_of is None:
            return named
        table: dict[str, Any] = {"source": named}
        if choice.tokens:
            table["tokens"] = {text: self.token(rule) for text, rule in choice.tokens.items()}
        if choice.pad_to_multiple_of is not None:
            table["pad_to_multiple_of"] = choice.pad_to_multiple_of
        return table

    def token(self, rule: Any) -> dict[str, Any]:
        source: Any = {"kind": rule.kind}
        if rule.model is not None:
            source["model"] = self.reference(rule.model)
        if rule.kind == "model":
            source = source["model"]
        elif rule.kind == "model_token":
            source["token_id" if isinstance(rule.token, int) else "token"] = rule.token
        return {"source": source, **({"force": True} if rule.force else {})}


def _dtype(dtype: str | None) -> str:
    return "auto" if dtype is None else to_torch_name(dtype)


def _source(reference: Reference) -> str:
    """A model outside of the file: a folder that is there is a path, all else an id of the hub."""
    text = str(reference.without_adapter)
    here = reference.revision is None and Path(reference.model).is_dir()
    if here and (is_hub(text) or is_plain(text)):
        return f"./{text}"
    return text


def name_of(path: Path) -> str:
    """The name of a recipe that is made from a file: the file's own, as far as a name can be."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", path.stem).lstrip("-")[:64] or "recipe"


def recipe_text(recipe: Mapping[str, Any], origin: str) -> str:
    """The recipe as a file of `conf/recipe`; `origin` names the file it was made of."""
    yaml = YAML()
    yaml.width = 1000
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = io.StringIO()
    yaml.dump(CommentedMap({"recipe": _styled(dict(recipe), 0)}), out)
    return f"# @package _global_\n# Made from {origin} by `remerge import`.\n{out.getvalue()}"


def _styled(value: Any, depth: int) -> Any:
    """Tables of nodes and models as blocks, what is in them on one line."""
    if isinstance(value, Mapping):
        table = CommentedMap({k: _styled(v, depth + 1) for k, v in value.items()})
        if all(not isinstance(v, Mapping) for v in value.values()) and depth > 2:
            table.fa.set_flow_style()
        return table
    if isinstance(value, list):
        items = CommentedSeq([_styled(entry, depth + 1) for entry in value])
        if not any(isinstance(entry, Mapping) for entry in value):
            items.fa.set_flow_style()
        return items
    return value
