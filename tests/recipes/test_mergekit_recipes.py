"""Mergekit files as recipes and back: the merge stays the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from remerge.errors import RecipeError
from remerge.recipes.mergekit.exporting import exported
from remerge.recipes.mergekit.importing import imported, recipe_text
from remerge.recipes.mergekit.reading import read_merges
from remerge.recipes.merges import Merge
from remerge.recipes.nodes import merges_of
from remerge.recipes.planning import Settings, planned, result_of
from remerge.recipes.schema import Recipe, read_recipe
from tests.proof.models import llama, save

CASES = {
    "ties": """\
merge_method: ties
base_model: ./base
models:
  - model: ./base
  - model: ./a
    parameters: {density: [1, 0.7, 0.1], weight: 1}
  - model: ./b
    parameters:
      weight: [{filter: mlp, value: 0.5}, {value: 0.25}]
parameters: {normalize: true, int8_mask: true}
dtype: bfloat16
""",
    "dare": """\
merge_method: dare_ties
base_model: ./base
models: [{model: ./a}, {model: ./b}]
parameters: {weight: 0.5, density: 0.3}
""",
    "stack": """\
name: first
merge_method: nuslerp
models: [{model: ./a, parameters: {weight: 0.4}}, {model: ./b, parameters: {weight: 0.6}}]
---
merge_method: passthrough
slices:
- sources: [{model: ./base, layer_range: [0, 1]}]
- sources: [{model: first, layer_range: [0, 2], parameters: {scale: 0.5}}]
dtype: float16
""",
    "slerp": """\
merge_method: slerp
base_model: ./a
slices:
- sources: [{model: ./a, layer_range: [0, 1]}, {model: ./b, layer_range: [1, 2]}]
  parameters: {t: 0.25}
- sources: [{model: ./a, layer_range: [0, 2]}, {model: ./b, layer_range: [0, 2]}]
parameters: {t: [0.1, 0.9]}
""",
    "modules": """\
merge_method: linear
modules:
  default:
    models: [{model: ./a, parameters: {weight: 2}}, {model: ./b}]
    parameters: {weight: 1}
""",
}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("base", "a", "b")):
        save(tmp_path / name, llama(seed))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str) -> list[Merge]:
    Path("merge.yml").write_text(text)
    return read_merges(Path("merge.yml"))


def recipe_of(text: str) -> Recipe:
    merges = read(text)
    written = recipe_text(imported(merges, "mine", result_of(merges, None)), "merge.yml")
    return read_recipe(yaml.safe_load(written)["recipe"])


def digest(merges: list[Merge], result: str | None = None) -> str:
    settings = Settings(lambda path, _: Path(path), Path("scratch"), 10**9, result=result)
    with planned(merges, settings) as found:
        return str(found.plan.parameters())


@pytest.mark.parametrize("name", CASES)
def test_recipe_of_a_file_is_the_same_merge(models: Path, name: str) -> None:
    recipe = recipe_of(CASES[name])
    assert digest(merges_of(recipe), recipe.result) == digest(read(CASES[name]))


@pytest.mark.parametrize("name", CASES)
def test_file_of_a_recipe_is_the_same_merge(models: Path, name: str) -> None:
    recipe = recipe_of(CASES[name])
    assert digest(read(exported(recipe))) == digest(merges_of(recipe), recipe.result)


@pytest.mark.parametrize(
    "node, message",
    [
        ("{method: gradient, models: [a, b], values: [0, 1]}", "no gradient merge"),
        ("{method: dare_ties, base: a, models: [b]}", "rescale_norm is density"),
        ("{method: ties, base: a, models: {b: {vocabulary: map}}}", "no rule for one model"),
        ("{method: ties, base: a, models: [b], elect: count}", "elect is count"),
    ],
)
def test_what_mergekit_cannot_say_is_refused(node: str, message: str) -> None:
    merges = {"out": yaml.safe_load(node)}
    recipe = read_recipe({"name": "x", "dtype": "float16", "merges": merges, "result": "out"})
    with pytest.raises(RecipeError, match=message):
        exported(recipe)


def test_adapter_becomes_a_bake(models: Path) -> None:
    text = "merge_method: linear\nmodels: [{model: o/a+o/lora, parameters: {weight: 1}}]\n"
    merges = read(text)
    recipe = imported(merges, "mine", merges[0])
    assert recipe["bakes"] == {"a_lora": {"model": "o/a", "adapter": "o/lora"}}
    assert recipe["merges"]["final"]["models"] == {"a_lora": {"weight": 1.0}}
