"""The merge table: slices, gradients, filters and precedence are resolved from headers alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from remerge.errors import CheckpointError, RecipeError
from remerge.merge.settings import value_at
from remerge.merge.table import Headers, Slice, Source, Use, make_table, mergekit_defaults
from remerge.merge.table_plan import plan_table
from remerge.methods.method import REQUIRED
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import Checkpoint, open_checkpoint
from tests.kernels.reference import encode
from tests.merge.families import random_weights, read_raw, write_model
from tests.methods import reference

SHAPES = {
    "model.embed_tokens.weight": (11, 8),
    **{
        f"model.layers.{layer}.{name}.weight": shape
        for layer in range(4)
        for name, shape in (("self_attn.q_proj", (8, 8)), ("mlp.up_proj", (24, 8)))
    },
    "model.norm.weight": (8,),
    "lm_head.weight": (11, 8),
}


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Checkpoint]:
    for seed, name in enumerate("abc"):
        write_model(tmp_path / name, random_weights(seed, ("F16", "F32"), SHAPES))
    return {name: open_ordered(tmp_path / name) for name in "abc"}


def open_ordered(folder: Path) -> Checkpoint:
    """The model in state-dict order, whatever the order of its file."""
    model = open_checkpoint(folder)
    return replace(model, tensors={name: model.tensors[name] for name in SHAPES})


@pytest.fixture
def headers(models: dict[str, Checkpoint]) -> Headers:
    return {label: model.tensors for label, model in models.items()}


def test_list_is_piecewise_linear_over_the_layers(headers: Headers) -> None:
    table = make_table(
        "slerp",
        [Slice((Use("a"), Use("b")))],
        headers,
        base="a",
        dtype="F16",
        parameters={"t": [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"value": [0.5, 0.25]}]},
    )
    ts = {row.tensor: dict(row.parameters)["t"] for row in table}
    attention = [ts[f"model.layers.{i}.self_attn.q_proj.weight"] for i in range(4)]
    assert attention == pytest.approx([0, 1 / 3, 2 / 3, 1])
    others = [ts[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(4)]
    assert others == pytest.approx([0.5, 0.5 - 0.25 / 3, 0.5 - 0.5 / 3, 0.25])
    assert ts["lm_head.weight"] == ts["model.embed_tokens.weight"] == 0.5
    assert [row.tensor for row in table] == list(SHAPES)


def test_slices_stack_layers_under_new_numbers(headers: Headers) -> None:
    parts = [Slice((Use("a", (0, 3)),)), Slice((Use("b", (1, 4)),), parameters={"scale": 0.5})]
    table = make_table("passthrough", parts, headers, dtype="F16")
    assert table.layers() == 6
    rows = {row.tensor: row for row in table}
    assert rows["model.layers.3.mlp.up_proj.weight"].models == (
        Source("b", "model.layers.1.mlp.up_proj.weight"),
    )
    assert dict(rows["model.layers.3.mlp.up_proj.weight"].parameters)["scale"] == (0.5,)
    assert dict(rows["model.layers.2.mlp.up_proj.weight"].parameters)["scale"] == (None,)
    assert rows["model.embed_tokens.weight"].models[0].model == "a"
    assert rows["lm_head.weight"].models[0].model == "b"


def test_settings_of_a_source_precede_those_of_slice_and_merge(headers: Headers) -> None:
    part = Slice((Use("a", parameters={"weight": 3}), Use("b")), parameters={"weight": 2})
    table = make_table("linear", [part], headers, dtype="F16", parameters={"weight": 1})
    assert {dict(row.parameters)["weight"] for row in table} == {(3.0, 2.0)}


def test_base_among_the_sources_is_no_donor(headers: Headers) -> None:
    uses = (Use("a", parameters={"weight": 0.2}), Use("b"), Use("c"))
    table = make_table("task_arithmetic", [Slice(uses)], headers, dtype="F16", base="a")
    for row in table:
        assert row.base is not None and row.base.model == "a"
        assert [source.model for source in row.models] == ["b", "c"]


def test_digest_names_every_parameter(headers: Headers) -> None:
    def digest(**parameters: float) -> str:
        part = [Slice((Use("a"), Use("b")))]
        return make_table(
            "dare_ties", part, headers, base="a", dtype="F16", parameters=parameters
        ).digest()

    digests = {digest(), digest(density=0.5), digest(density=0.5, seed=1), digest(weight=0.5)}
    assert len(digests) == 4
    assert digest() == digest(density=1, normalize=0)


def test_text_has_a_line_for_each_tensor(headers: Headers) -> None:
    part = [Slice((Use("a"), Use("b")))]
    lines = make_table("slerp", part, headers, base="b", dtype="BF16", parameters={"t": 0.25})
    assert lines.text().splitlines()[0] == (
        "model.embed_tokens.weight BF16 11×8 slerp(a) on b t=0.25"
    )
    assert len(lines.text().splitlines()) == len(SHAPES)


@pytest.mark.parametrize(
    "method, uses, parameters, message",
    [
        ("slrep", "ab", {}, "did you mean slerp"),
        ("slerp", "ab", {}, "t is missing"),
        ("slerp", "ab", {"t": 1.5}, r"t is 1.5; it is a number in \[0, 1\]"),
        ("slerp", "ab", {"t": "half"}, "t is half"),
        ("slerp", "abc", {"t": 0.5}, "merges 1 model besides the base, not 2"),
        ("model_stock", "abc", {"weight": 1}, "model_stock has no parameter 'weight'"),
        ("dare_ties", "ab", {"densty": 1}, "did you mean density"),
        ("ties", "ab", {"density": 0}, r"density is 0; it is a number in \(0, 1\]"),
        ("della", "ab", {"density": 0.1}, "choose a smaller epsilon"),
        ("sce", "ab", {"select_topk": []}, "an empty list"),
        ("task_arithmetic", "a", {}, "at least 1 model besides the base"),
        ("linear", "", {}, "no sources"),
    ],
)
def test_wrong_recipe_is_refused_in_one_line(
    headers: Headers, method: str, uses: str, parameters: dict, message: str
) -> None:
    part = [Slice(tuple(Use(name) for name in uses))]
    with pytest.raises(RecipeError, match=message):
        make_table(method, part, headers, base="a", dtype="F16", parameters=parameters)


def test_parameter_of_the_merge_is_refused_on_a_model(headers: Headers) -> None:
    part = [Slice((Use("a"), Use("b", parameters={"t": 0.5})))]
    with pytest.raises(RecipeError, match="t is one value for the whole merge"):
        make_table("slerp", part, headers, base="a", dtype="F16", parameters={"t": 1})


def test_layers_of_other_names_or_shapes_are_refused(headers: Headers) -> None:
    with pytest.raises(RecipeError, match=r"b has no layers \[2, 9\)"):
        make_table("passthrough", [Slice((Use("b", (2, 9)),))], headers, dtype="F16")
    with pytest.raises(RecipeError, match="2 and 4 layers"):
        make_table("linear", [Slice((Use("a", (0, 2)), Use("b")))], headers, dtype="F16")
    less = {label: dict(tensors) for label, tensors in headers.items()}
    name = "model.layers.1.mlp.up_proj.weight"
    info = less["b"].pop(name)
    part = [Slice((Use("a"), Use("b")))]
    with pytest.raises(CheckpointError, match="b lacks tensor 'model"):
        make_table("linear", part, less, dtype="F16")
    less["b"][name] = replace(info, shape=(8, 24))
    with pytest.raises(CheckpointError, match=r"has shape \[8, 24\], a has \[24, 8\]"):
        make_table("linear", part, less, dtype="F16")


def test_defaults_of_mergekit_are_those_of_its_code() -> None:
    assert mergekit_defaults("dare_ties") == {
        "rescale_norm": "l1",
        "divide_by": "weights",
        "weight": REQUIRED,
    }
    assert mergekit_defaults("sce") == {"floor": 1e-6}
    assert mergekit_defaults("slerp") == {}


def test_lists_follow_the_one_layer_and_words() -> None:
    assert value_at([1, 2], "x", 1.0) == 2
    assert value_at([True, False], "x", 0.5) is True
    assert value_at([{"filter": "y", "value": 1}], "x", 0) is None


def test_plan_of_a_table_builds_what_the_reference_gives(
    tmp_path: Path, models: dict[str, Checkpoint], headers: Headers
) -> None:
    parts = [
        Slice((Use("a", (0, 2)), Use("b", (2, 4)))),
        Slice((Use("c", (0, 1)), Use("b", (0, 1)))),
    ]
    weights = {"weight": [0.3, 0.9]}
    table = make_table("linear", parts, headers, dtype="BF16", parameters=weights)
    folders = []
    for threads in (1, 3):
        plan = plan_table(table, models, shard_bytes=700)
        folders.append(tmp_path / f"out{threads}")
        manifest = build(
            plan,
            folders[-1],
            companions=companions_of(models["a"].folder),
            scratch=tmp_path / "scratch",
            threads=threads,
        )
    assert manifest["order"] == [row.tensor for row in table]
    actual = read_raw(folders[0])
    assert actual == read_raw(folders[1])
    values = {seed: random_weights(i, ("F16", "F32"), SHAPES) for i, seed in enumerate("abc")}
    for row in table:
        inputs = [values[s.model][s.tensor][1].astype(np.float32) for s in row.models]
        wanted = reference.linear(inputs, dict(row.parameters)["weight"], True)
        assert actual[row.tensor] == encode(wanted, "BF16").tobytes(), row.tensor
