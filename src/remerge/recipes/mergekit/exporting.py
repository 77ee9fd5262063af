"""A recipe as a mergekit file, where that can say it.

>>> print(exported(recipe))

mergekit has no gradient merge of 2023, no vocabulary rule for one model and no choice of seed; a
value that it cannot be told is refused by name. A file read back means the same merge.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from remerge.errors import RecipeError
from remerge.methods.method import REQUIRED, Method
from remerge.methods.registry import METHODS
from remerge.recipes.graph import base_of, read_graph
from remerge.recipes.methods import Merge, Module, Slice, Use
from remerge.recipes.schema import Recipe
from remerge.schema import Table

#: Parameters that mergekit does not have, with the value by which it works.
_ALWAYS: dict[str, Any] = {
    "rescale_norm": "l1",
    "floor": 1e-6,
    "elect": "sum",
    "seed": 0,
    "divide_by": "weights",
}


def exported(recipe: Recipe) -> str:
    """Write a recipe as mergekit YAML, one document a merge.

    Raises:
        RecipeError: Something in it that mergekit cannot do.
    """
    graph = read_graph(recipe)
    if recipe.result not in graph.merges:
        raise RecipeError(f"recipe.result is {recipe.result}, a bake; mergekit only writes merges")
    documents = [
        _document(recipe, name, recipe.merges[name]) for name in graph.nodes if name in graph.merges
    ]
    yaml = YAML()
    yaml.width = 1000
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = io.StringIO()
    yaml.dump_all(documents, out)
    return out.getvalue()


def _document(recipe: Recipe, name: str, node: Merge) -> dict[str, Any]:
    where = f"recipe.merges.{name}"
    method = METHODS[node.method]
    if node.method == "gradient":
        raise RecipeError(f"{where}: mergekit has no gradient merge over tensors")
    document: dict[str, Any] = {} if name == recipe.result else {"name": name}
    document["merge_method"] = node.method
    base = base_of(recipe, node)
    if base is not None:
        document["base_model"] = _reference(recipe, base)
    if node.modules is not None:
        document["modules"] = {
            label: _part(recipe, part, f"{where}.modules.{label}")
            for label, part in node.modules.items()
        }
    else:
        document |= _part(recipe, node, where)
    given = _with_defaults(method, node, node.given())
    parameters = _parameters(given, where)
    if _lacks_weight(method, node):
        parameters.setdefault("weight", 1.0)
    if parameters:
        document["parameters"] = parameters
    dtype = node.dtype or recipe.dtype
    if dtype != "auto":
        # Arithmetic is float32 here: mergekit would round every input and step to `dtype`.
        document |= {"dtype": "float32", "out_dtype": dtype}
    if isinstance(node.tokenizer, Mapping):
        document["tokenizer"] = dict(node.tokenizer)
    elif node.tokenizer is not None:
        plain = node.tokenizer in ("base", "union")
        source = node.tokenizer if plain else _reference(recipe, node.tokenizer)
        document["tokenizer_source"] = source
    if node.chat_template is not None:
        document["chat_template"] = node.chat_template
    return document


def _part(recipe: Recipe, part: Merge | Module, where: str) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if part.models is not None:
        entry["models"] = [
            _use(recipe, label, use, f"{where}.models.{label}")
            for label, use in part.models.items()
        ]
    else:
        entry["slices"] = [
            _slice(recipe, piece, f"{where}.slices[{i}]")
            for i, piece in enumerate(part.slices or [])
        ]
    if isinstance(part, Module) and part.given():
        entry["parameters"] = _parameters(part.given(), where)
    return entry


def _slice(recipe: Recipe, piece: Slice, where: str) -> dict[str, Any]:
    sources = []
    for label, use in piece.models.items():
        source = _use(recipe, label, use, f"{where}.models.{label}")
        layers = CommentedSeq(use.layers)
        layers.fa.set_flow_style()
        sources.append({"model": source.pop("model"), "layer_range": layers, **source})
    entry: dict[str, Any] = {"sources": sources}
    if piece.base is not None:
        entry["base_model"] = _reference(recipe, piece.base)
    if piece.given():
        entry["parameters"] = _parameters(piece.given(), where)
    return entry


def _use(recipe: Recipe, label: str, use: Use, where: str) -> dict[str, Any]:
    if use.vocabulary is not None:
        raise RecipeError(f"{where}.vocabulary: mergekit has no rule for one model's tokens")
    entry: dict[str, Any] = {"model": _reference(recipe, use.model or label)}
    if use.given():
        entry["parameters"] = _parameters(use.given(), where)
    return entry


def _reference(recipe: Recipe, reference: str) -> str:
    """A model as mergekit names it; a bake is `model+adapter`."""
    bake = recipe.bakes.get(reference)
    if bake is None:
        return reference
    if bake.model in recipe.bakes and bake.model != reference:
        raise RecipeError(f"recipe.bakes.{reference}: mergekit bakes one adapter into a model")
    return f"{bake.model}+{bake.adapter}"


def _with_defaults(method: Method, node: Merge, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters with defaults of ours that mergekit's are not."""
    ours = {
        p.name: p.default for p in method.parameters if p.name in _ALWAYS and p.default is not None
    }
    found = {**ours, **given}
    if not _any_negative(node):
        found.pop("divide_by", None)  # either of them is the same divisor then
    return found


def _any_negative(value: Any) -> bool:
    """Whether some weight of a node, wherever it stands, is below 0."""
    if isinstance(value, Table):
        entries = [getattr(value, name) for name in type(value).model_fields]
        return any(_any_negative(entry) for entry in entries)
    if isinstance(value, Mapping):
        return any(_any_negative(entry) for entry in value.values())
    if isinstance(value, list):
        return any(_any_negative(entry) for entry in value)
    return isinstance(value, float) and value < 0


def _parameters(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = {}
    for name, value in given.items():
        if name in _ALWAYS:
            if value != _ALWAYS[name]:
                raise RecipeError(f"{where}.{name} is {value}; mergekit knows only {_ALWAYS[name]}")
            continue
        found[name] = _flow(value)
    return found


def _flow(value: Any) -> Any:
    if isinstance(value, list) and not any(isinstance(entry, Mapping) for entry in value):
        items = CommentedSeq(value)
        items.fa.set_flow_style()
        return items
    if isinstance(value, list):
        return [{k: _flow(v) for k, v in entry.items()} for entry in value]
    return value


def _lacks_weight(method: Method, node: Merge) -> bool:
    """Whether mergekit wants a weight that the recipe leaves to its default."""
    wants = any(p.name == "weight" and p.mergekit == REQUIRED for p in method.parameters)
    return wants and "weight" not in node.given()
