"""Whole merges of small folders equal the references, tensor by tensor, byte by byte."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from remerge.adapters.peft_files import read_adapter
from remerge.baking.bake import plan_bake
from remerge.errors import CheckpointError, NumericError, RecipeError
from remerge.methods.gradient import Gradient, plan_gradient
from remerge.methods.ties import Donor, TiesSettings, plan_ties
from remerge.methods.ties_kernel import SAMPLE_RUN
from remerge.shards.artefact import build, companions_of
from remerge.shards.units import CHUNK
from remerge.tensors.checkpoint import open_checkpoint
from tests.kernels import reference
from tests.kernels.drivers import ties_kernel
from tests.merge.families import Weights, random_weights, read_raw, write_model


def run(plan, folder: Path, like: Path) -> dict:
    return build(
        plan, folder / "out", companions=companions_of(like), scratch=folder / "scratch", threads=2
    )


@pytest.fixture
def family(tmp_path: Path) -> dict[str, Weights]:
    """A base and three fine-tunes in mixed types; the second has extra rows and a buffer."""
    dtypes = {"base": ("F16",), "x": ("F16", "BF16", "F32"), "y": ("F32", "F16"), "z": ("BF16",)}
    family = {name: random_weights(seed, t) for seed, (name, t) in enumerate(dtypes.items())}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        dtype, values = family["y"][name]
        family["y"][name] = (dtype, np.concatenate([values, values[:2]]))
    family["y"]["model.layers.0.self_attn.rotary_emb.inv_freq"] = ("F32", np.ones(4, np.float32))
    for name, weights in family.items():
        write_model(tmp_path / name, weights)
    return family


def donors(folder: Path, **changes: float) -> list[Donor]:
    numbers = {"x": (0.33, 1.0), "y": (0.5, 0.25), "z": (0.9, 2.0)}
    return [
        Donor(open_checkpoint(folder / name), density, weight, "truncate", **changes)
        for name, (density, weight) in numbers.items()
    ]


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("elect", ["sum", "count"])
def test_ties_of_a_family(
    tmp_path: Path, family: dict[str, Weights], dtype: str, elect: str
) -> None:
    base = open_checkpoint(tmp_path / "base")
    settings = TiesSettings(lam=0.8, elect=elect)
    plan = plan_ties(base, donors(tmp_path), settings, dtype=dtype, shard_bytes=700)
    manifest = run(plan, tmp_path, tmp_path / "base")
    actual = read_raw(tmp_path / "out")
    for name, (_, values) in family["base"].items():
        rows = [family[donor][name][1].ravel()[: values.size] for donor in "xyz"]
        merged = reference.ties(
            values.ravel(), rows, [0.33, 0.5, 0.9], [1.0, 0.25, 2.0], 0.8, True, elect
        )
        assert actual[name] == reference.encode(merged, dtype).tobytes(), name
    assert manifest["order"] == list(base.tensors)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    dropped = [note for note in manifest["notes"] if note[0] == "y" and "dropped" in note[2]]
    assert sorted(dropped) == [
        ["y", "lm_head.weight", "2 vocabulary rows beyond the base, dropped"],
        ["y", "model.embed_tokens.weight", "2 vocabulary rows beyond the base, dropped"],
        ["y", "model.layers.0.self_attn.rotary_emb.inv_freq", "buffer, dropped"],
    ]


def test_a_tensor_too_small_for_the_density_is_noted_and_unchanged(
    tmp_path: Path, family: dict[str, Weights]
) -> None:
    few = [replace(donor, density=0.1) for donor in donors(tmp_path)]
    plan = plan_ties(
        open_checkpoint(tmp_path / "base"), few, TiesSettings(), dtype="F16", shard_bytes=10**9
    )
    manifest = run(plan, tmp_path, tmp_path / "base")
    assert ["x", "model.layers.1.gate", "density 0.1 keeps none of 1 entries"] in manifest["notes"]
    values = family["base"]["model.layers.1.gate"][1]
    merged = read_raw(tmp_path / "out")["model.layers.1.gate"]
    assert merged == reference.encode(values, "F16").tobytes()


@pytest.mark.parametrize("blend", ["all", "layers", "no_layers"])
@pytest.mark.parametrize("containing", ["", "mlp"])
def test_a_gradient_along_the_tensors(
    tmp_path: Path, family: dict[str, Weights], blend: str, containing: str
) -> None:
    first, second = open_checkpoint(tmp_path / "base"), open_checkpoint(tmp_path / "x")
    gradient = Gradient((0.0, 0.7, 1.0), blend=blend, containing=containing)
    run(
        plan_gradient(first, second, gradient, dtype="F16", shard_bytes=10**9),
        tmp_path,
        first.folder,
    )
    actual = read_raw(tmp_path / "out")
    names = list(first.tensors)
    for name, ratio in zip(
        names, reference.gradient_ratios((0.0, 0.7, 1.0), len(names)), strict=True
    ):
        in_layer = ".layers." in name
        blended = blend == "all" or in_layer == (blend == "layers")
        ratio = ratio if blended and containing in name else 0.0
        mixed = reference.blend(family["base"][name][1], family["x"][name][1], ratio)
        assert actual[name] == reference.encode(mixed, "F16").tobytes(), name


@pytest.mark.parametrize("count", range(1, 40))
def test_ratios_along_the_tensors_are_linspaces(count: int) -> None:
    from remerge.methods.gradient import blend_ratios

    names = [f"t{i}" for i in range(count)]
    for values in ((0.0, 1.0), (1.0, 0.0), (0.1, 0.9, 0.3), (0.0, 0.5, 1.0, 1.0, 0.25)):
        expected = reference.gradient_ratios(values, count)
        assert blend_ratios(Gradient(values), names) == expected


def test_ratios_along_the_layers_are_one_a_layer() -> None:
    from remerge.methods.gradient import blend_ratios

    names = ["embed.weight", *(f"model.layers.{i // 2}.w{i % 2}" for i in range(10)), "norm.weight"]
    ratios = blend_ratios(Gradient((0.2, 0.6, 1.0), along="layers"), names)
    assert ratios[0] == 0.2
    assert ratios[-1] == 1.0
    assert np.allclose(ratios[1:-1:2], np.linspace(0.2, 1.0, 5))
    assert ratios[1:-1:2] == ratios[2:-1:2]


@pytest.mark.parametrize("values", [(0.7, 0.1), (0.1, 0.2, 0.3), (0.9, 0.3, 0.6, 0.1)])
def test_the_first_and_the_last_layer_have_the_first_and_the_last_value(
    values: tuple[float, ...],
) -> None:
    from remerge.methods.gradient import blend_ratios

    names = [f"model.layers.{i}.weight" for i in range(7)]
    ratios = blend_ratios(Gradient(values, along="layers"), names)
    assert (ratios[0], ratios[-1]) == (values[0], values[-1])


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_chunks_leave_no_seam(tmp_path: Path, dtype: str) -> None:
    """A tensor of several chunks, whose rows divide none, equals the reference computed at once."""
    shape = (701, 1103)
    assert CHUNK < 701 * 1103 and CHUNK % 1103
    weights = {
        name: random_weights(seed, ("F16",), {"w.weight": shape})
        for seed, name in enumerate(("base", "x", "y"))
    }
    base, x, y = (open_checkpoint(write_model(tmp_path / n, weights[n])) for n in weights)
    values = [weights[name]["w.weight"][1] for name in weights]
    like = {"dtype": dtype, "shard_bytes": 10**9}

    def made(plan) -> bytes:
        (tmp_path / plan.label).mkdir()
        run(plan, tmp_path / plan.label, base.folder)
        return read_raw(tmp_path / plan.label / "out")["w.weight"]

    blended = reference.blend(values[1], values[2], 0.3)
    gradient = plan_gradient(x, y, Gradient((0.3, 0.9)), **like)
    assert made(gradient) == reference.encode(blended, dtype).tobytes()
    keeps = [701 * 1103 // 3, 701 * 1103]
    donors = [Donor(x, 1 / 3, 0.1), Donor(y, 1.0, 0.7)]
    ties = plan_ties(base, donors, TiesSettings(lam=0.9), **like)
    raws = [("F16", reference.encode(v, "F16")) for v in values]
    whole = ties_kernel(raws[0], raws[1:], keeps, [0.1, 0.7], 0.9, True, "sum", dtype, SAMPLE_RUN)
    assert made(ties) == whole.tobytes()
    rng = np.random.default_rng(5)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((3, 1103), (701, 3)))
    save_adapter(tmp_path / "adapter", "w", a, b, {"r": 3, "lora_alpha": 2})
    bake = plan_bake(base, read_adapter(tmp_path / "adapter"), **like)
    assert made(bake) == reference.encode(reference.bake(values[0], a, b, 2 / 3), dtype).tobytes()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_a_weight_stored_the_other_way_round_is_baked_to_the_bit(
    tmp_path: Path, dtype: str
) -> None:
    """(B·A)ᵀ element by element, with the same order of k."""
    weights = random_weights(3, ("BF16",), {"h.0.c_fc.weight": (8, 24)})
    base = open_checkpoint(write_model(tmp_path / "base", weights))
    rng = np.random.default_rng(6)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((5, 8), (24, 5)))
    save_adapter(tmp_path / "adapter", "h.0.c_fc", a, b, {"r": 5, "lora_alpha": 3})
    plan = plan_bake(base, read_adapter(tmp_path / "adapter"), dtype=dtype, shard_bytes=10**9)
    run(plan, tmp_path, base.folder)
    (values,) = (values for _, values in weights.values())
    expected = reference.bake(values.T, a, b, 3 / 5).T
    (made,) = read_raw(tmp_path / "out").values()
    assert made == reference.encode(np.ascontiguousarray(expected), dtype).tobytes()


def test_how_many_are_kept_is_rounded_down_in_float64(tmp_path: Path) -> None:
    """0.29 · 100 is 28.999999999999996 in float64."""
    weights = {n: random_weights(s, ("F32",), {"w": (100,)}) for s, n in enumerate(("base", "x"))}
    base, x = (open_checkpoint(write_model(tmp_path / n, w)) for n, w in weights.items())
    plan = plan_ties(base, [Donor(x, 0.29)], TiesSettings(), dtype="F32", shard_bytes=10**9)
    manifest = run(plan, tmp_path, base.folder)
    assert manifest["tensors"]["w"]["statistics"]["kept"] == [28]


def save_adapter(
    folder: Path, module: str, a: np.ndarray, b: np.ndarray, config: dict[str, object]
) -> None:
    from safetensors.numpy import save_file

    folder.mkdir()
    path = str(folder / "adapter_model.safetensors")
    stem = f"base_model.model.{module}"
    save_file({f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}, path)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))


def write_adapter(folder: Path, rank: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(9)
    a = rng.standard_normal((rank, 8)).astype(np.float32)
    b = (rng.standard_normal((24, rank)) * 0.1).astype(np.float32)
    save_adapter(folder, "model.layers.1.mlp.up_proj", a, b, {"r": rank, "lora_alpha": 3})
    return a, b


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("model", ["base", "x", "z"])
def test_a_bake_changes_its_target_and_rounds_the_rest(
    tmp_path: Path, family: dict[str, Weights], dtype: str, model: str
) -> None:
    a, b = write_adapter(tmp_path / "adapter", rank=5)
    plan = plan_bake(
        open_checkpoint(tmp_path / model),
        read_adapter(tmp_path / "adapter"),
        dtype=dtype,
        shard_bytes=10**9,
    )
    run(plan, tmp_path, tmp_path / model)
    actual = read_raw(tmp_path / "out")
    for name, (_, values) in family[model].items():
        expected: np.ndarray = values
        if name == "model.layers.1.mlp.up_proj.weight":
            expected = reference.bake(values, a, b, 3 / 5)
        assert actual[name] == reference.encode(expected, dtype).tobytes(), name


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("model", ["base", "y"])
def test_a_bad_number_is_named_by_model_tensor_and_index(
    tmp_path: Path, family: dict[str, Weights], bad: float, model: str
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    dtype, values = family[model][name]
    values[17, 3] = bad
    damaged = write_model(tmp_path / "damaged" / model, family[model] | {name: (dtype, values)})
    models = {n: open_checkpoint(tmp_path / n) for n in "xz"} | {
        "base": open_checkpoint(tmp_path / "base"),
        "y": open_checkpoint(tmp_path / "y"),
        model: open_checkpoint(damaged),
    }
    trio = [Donor(models[n], 0.5, 1.0, "truncate") for n in "xyz"]
    plan = plan_ties(models["base"], trio, TiesSettings(), dtype="F16", shard_bytes=10**9)
    with pytest.raises(NumericError) as raised:
        run(plan, tmp_path, tmp_path / "base")
    assert f"{model}: tensor '{name}' holds {bad} at index [17, 3]" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_result_beyond_the_output_type_is_an_error(tmp_path: Path) -> None:
    huge = {"w": ("F32", np.full((3, 3), 70000, np.float32))}
    for name in ("base", "x"):
        write_model(tmp_path / name, huge)
    base, donor = open_checkpoint(tmp_path / "base"), Donor(open_checkpoint(tmp_path / "x"), 0.5)
    plan = plan_ties(base, [donor], TiesSettings(), dtype="F16", shard_bytes=10**9)
    with pytest.raises(NumericError, match=r"'w'.*too large for F16"):
        run(plan, tmp_path, tmp_path / "base")
    wider = plan_ties(base, [donor], TiesSettings(), dtype="BF16", shard_bytes=10**9)
    run(wider, tmp_path, tmp_path / "base")


def test_shapes_that_differ_are_refused_before_anything_is_computed(
    tmp_path: Path, family: dict[str, Weights]
) -> None:
    base = open_checkpoint(tmp_path / "base")
    bare = [replace(donor, vocabulary=None) for donor in donors(tmp_path)]
    with pytest.raises(CheckpointError, match=r"2 rows more.*vocabulary: truncate"):
        plan_ties(base, bare, TiesSettings(), dtype="F16", shard_bytes=10**9)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.0000001, np.nan, np.inf])
def test_a_density_outside_its_range_is_refused(
    tmp_path: Path, family: dict[str, Weights], density: float
) -> None:
    with pytest.raises(RecipeError, match="density"):
        Donor(open_checkpoint(tmp_path / "x"), density)


@pytest.mark.parametrize("weight", [-1e39, np.nan, np.inf, 1e39])
def test_a_weight_outside_its_range_is_refused(
    tmp_path: Path, family: dict[str, Weights], weight: float
) -> None:
    with pytest.raises(RecipeError, match="weight"):
        Donor(open_checkpoint(tmp_path / "x"), 0.5, weight)


@pytest.mark.parametrize("weight", [0.0, 1e-60])
def test_weights_that_are_all_zero_are_refused(
    tmp_path: Path, family: dict[str, Weights], weight: float
) -> None:
    none = [Donor(open_checkpoint(tmp_path / "x"), 0.5, weight)]
    with pytest.raises(RecipeError, match="weights of all donors are 0"):
        plan_ties(
            open_checkpoint(tmp_path / "base"), none, TiesSettings(), dtype="F16", shard_bytes=1
        )
