"""Reading mergekit files: what is accepted, and the line that each mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from remerge.errors import RecipeError
from remerge.recipes.mergekit.reading import Merge, read_merges
from remerge.recipes.mergekit.references import Reference, parse_reference

TIES = """\
merge_method: ties
base_model: base
models:
  - model: base
  - model: a
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1
  - model: b@main+lora@v2
    parameters:
      weight:
        - filter: mlp
          value: [0, 0.5]
        - value: 1e-1
parameters:
  normalize: 1.0
  int8_mask: true
dtype: bfloat16
"""
STOCK = """\
merge_method: model_stock
base_model: a
models:
- model: b
  parameters:
    weight: 1
"""
SLERP = """\
slices:
  - sources:
      - model: a
        layer_range: [0, 4]
      - model: b
        layer_range: [0, 4]
merge_method: slerp
base_model: a
parameters:
  t: 0.5
"""


def read(tmp_path: Path, text: str, *, lenient: bool = False) -> list[Merge]:
    path = tmp_path / "merge.yml"
    path.write_text(text)
    return read_merges(path, lenient=lenient)


def test_reference_has_model_revision_and_adapter() -> None:
    assert parse_reference("a/b") == Reference("a/b")
    assert parse_reference("a/b@main+c/d@v2") == Reference("a/b", "main", "c/d", "v2")
    table = {"model": {"path": "a/b", "revision": "main"}, "lora": {"path": "c/d"}}
    assert parse_reference(table) == Reference("a/b", "main", "c/d")
    assert str(parse_reference(table)) == "a/b@main+c/d"
    for wrong in ("", "a@", "a@b@c", "a+b+c", 3, {"model": {"path": 1}}, {"modle": "a"}):
        with pytest.raises(RecipeError):
            parse_reference(wrong)


def test_values_are_read_in_the_type_of_their_parameter(tmp_path: Path) -> None:
    (merge,) = read(tmp_path, TIES)
    base, a, b = merge.modules[0].slices[0].sources
    assert (base.model, base.parameters) == (Reference("base"), {})
    assert a.parameters == {"density": [1.0, 0.7, 0.1], "weight": 1.0}
    assert b.parameters == {"weight": [{"filter": "mlp", "value": [0.0, 0.5]}, {"value": 0.1}]}
    assert merge.parameters == {"normalize": True}
    assert merge.dtype == "BF16"
    (note,) = merge.notes
    assert note.endswith("merge.yml:17: int8_mask has no effect")


def test_out_dtype_is_the_type_of_the_result(tmp_path: Path) -> None:
    (merge,) = read(tmp_path, SLERP + "dtype: float32\nout_dtype: float16\n")
    assert merge.dtype == "F16"
    assert read(tmp_path, SLERP)[0].dtype is None


def test_base_joins_the_models_it_is_not_among(tmp_path: Path) -> None:
    text = "merge_method: ties\nbase_model: base\nmodels:\n- model: a\nparameters: {weight: 1}\n"
    uses = read(tmp_path, text)[0].modules[0].slices[0].sources
    assert [str(use.model) for use in uses] == ["a", "base"]


def test_parameters_of_the_base_are_noted_as_without_effect(tmp_path: Path) -> None:
    text = TIES.replace("  - model: base\n", "  - model: base\n    parameters: {weight: 0.2}\n")
    (merge,) = read(tmp_path, text)
    assert any(":5: weight of base has no effect: it is the base model" in n for n in merge.notes)


@pytest.mark.parametrize(
    "text, message",
    [
        (SLERP + "dype: float16\n", ":11: unknown key 'dype'; did you mean 'dtype'"),
        (
            SLERP + "t: 0.5\n",
            ":11: unknown key 't'; it is a parameter: move it under `parameters:`",
        ),
        (SLERP + "layer_range: 1\n", ":11: unknown key 'layer_range'; it belongs to a source of a"),
        (
            SLERP.replace("slerp", "slrep"),
            ":7: merge_method: there is no merge method 'slrep'",
        ),
        (SLERP.replace("  t: 0.5", "  t: half"), ":10: t is half; it is a number in"),
        (SLERP.replace("  t: 0.5", "  t: [0, 2]"), ":10: t is 2; it is a number in"),
        (SLERP.replace("  t: 0.5", "  t: []"), ":10: t is an empty list"),
        (
            SLERP.replace("  t: 0.5", "  weight: 1"),
            ":10: slerp has no parameter 'weight'; it",
        ),
        (SLERP.replace("  t: 0.5", "  dtype: float16"), ":10: 'dtype' belongs at the top"),
        (
            SLERP.replace("[0, 4]\n      - model: b", "[4, 0]\n      - model: b"),
            ":4: layer_range is",
        ),
        (SLERP.replace("- model: b", "- model: a"), ":5: 'a' stands here twice"),
        (SLERP.replace("base_model: a", "base_model: c"), ":2: the base model 'c' is no source of"),
        (SLERP + "models:\n  - model: a\n", ":1: a merge has exactly one of models, slices and"),
        (SLERP + "dtype: float8\n", ":11: dtype is 'float8'; expected one of float16, bfloat16"),
        (SLERP + "tokenizer: {sorce: base}\n", ":11: unknown key 'sorce'; did you mean 'source'"),
        (
            SLERP + "tokenizer_source: base\ntokenizer: {source: base}\n",
            ":11: both tokenizer and tokenizer_source",
        ),
        (SLERP + "merge_method: linear\n", "line 11: key 'merge_method' stands here and in line 7"),
        ("models:\n- a\nmerge_method: linear\n", ":2: 'a' is a text; write `- model: a`"),
        ("merge_metod: slerp\n", ":1: merge_method is missing; did you mean 'merge_method'"),
        (
            STOCK,
            ":6: model_stock has no parameter 'weight'",
        ),
        (
            "merge_method: sce\nbase_model: a\nmodels:\n- model: b\nselect_topk: 0.1\n",
            ":5: unknown key 'select_topk'; it is a parameter: move it under `parameters:`",
        ),
        (
            "merge_method: sce\nbase_model: a\nmodels:\n- model: b\nparameters:\n  normalize: 1\n",
            ":6: sce has no parameter 'normalize'",
        ),
        (
            TIES.replace("      weight: 1\n", "      weight: 1\n      lambda: 1\n"),
            ":9: lambda is one value for the whole merge",
        ),
        (
            TIES.replace("        - value: 1e-1\n", "        - value: 1\n        - value: 2\n"),
            ":15: weight: an entry before it takes every tensor",
        ),
        (
            TIES.replace("filter: mlp", "filtr: mlp"),
            ":12: weight: unknown key 'filtr'; did you mean 'filter'",
        ),
        ("a: &a [*a]\n", "stands for nothing, or for itself"),
        ("- merge\n", ":1: a merge is ['merge']; expected a table"),
        ("", "holds no merge"),
        (SLERP + "---\n" + SLERP, "two documents have no name"),
    ],
)
def test_mistake_is_named_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        read(tmp_path, text)
    assert "merge.yml" in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_lenient_notes_what_mergekit_drops(tmp_path: Path) -> None:
    text = SLERP.replace("  t: 0.5", "  t: 0.5\n  weight: 1") + "dype: float16\n"
    (merge,) = read(tmp_path, text, lenient=True)
    assert merge.parameters == {"t": 0.5}
    assert [note.partition("merge.yml:")[2][:2] for note in merge.notes] == ["12", "11"]
    with pytest.raises(RecipeError, match="t is 2"):
        read(tmp_path, SLERP.replace("  t: 0.5", "  t: 2"), lenient=True)
