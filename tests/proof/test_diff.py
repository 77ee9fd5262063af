"""A difference of two models: which tensors, how far in units of their type, in which layers."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remerge import cli
from remerge.arithmetic import distance
from remerge.errors import CheckpointError
from remerge.proof import diff
from remerge.proof.diff import compare, layer_of
from tests.proof.models import llama, save, save_gguf

Q8_0 = gguf.GGMLQuantizationType.Q8_0
HALF = np.arange(1 << 16, dtype="<u2")


def ulps_between(a: np.float16, b: np.float16) -> int:
    """Representable finite values passed on the way, by walking."""
    low, high = sorted([a, b])
    steps = 0
    while low < high:
        low = np.nextafter(low, np.float16(np.inf), dtype=np.float16)
        steps += 1
    return steps


@pytest.mark.filterwarnings("ignore:overflow")
@given(st.integers(0, 0x7BFF), st.integers(-300, 300), st.booleans())
def test_an_ulp_is_a_step_to_the_next_float16(bits: int, steps: int, negative: bool) -> None:
    a = np.array([bits | (negative << 15)], "<u2").view("<f2")
    b = a.copy()
    for _ in range(abs(steps)):
        b = np.nextafter(b, np.float16(np.copysign(np.inf, steps)), dtype=np.float16)
    if not np.isfinite(b[0]):
        return
    result = np.zeros(distance.RESULTS)
    distance.compare_16(a.view("<u2"), b.view("<u2"), 0, result)
    assert result[distance.MAX_ULP] == result[distance.SUM_ULP] == abs(steps)
    assert ulps_between(a[0], b[0]) == abs(steps)


def test_minus_zero_is_another_bit_pattern_but_no_distance() -> None:
    result = np.zeros(distance.RESULTS)
    zeros = np.array([0.0, -0.0], "<f4")
    distance.compare_32(zeros.view("<u4"), zeros[::-1].copy().view("<u4"), result)
    assert result[distance.DIFFERING] == 2
    assert result[distance.MAX_ULP] == 0


def test_a_model_is_the_same_as_itself_in_other_shards(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a", llama(1)), save(tmp_path / "b", llama(1), 3000)
    difference = compare(a, b)
    assert difference.same
    assert difference.differing == ()
    assert all(layer.cosine == 1.0 for layer in difference.layers())


def test_numbers_equal_those_of_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "CHUNK", 100)  # several blocks a tensor
    for dtype in ("F16", "F32"):
        x, y = llama(1, dtype), llama(2, dtype)
        found = compare(save(tmp_path / f"a{dtype}", x), save(tmp_path / f"b{dtype}", y, 5000))
        for tensor in found.tensors:
            a, b = (m[tensor.name][1].ravel() for m in (x, y))
            signed = [v.view("<i2" if dtype == "F16" else "<i4").astype(object) for v in (a, b)]
            lowest = 2**15 if dtype == "F16" else 2**31
            places = [np.where(s < 0, -(s + lowest), s) for s in signed]
            ulps = np.abs(places[0] - places[1])
            assert tensor.max_ulp == max(ulps)
            assert tensor.mean_ulp == pytest.approx(sum(ulps) / len(ulps))
            assert tensor.differing == (a != b).sum()
            a, b = a.astype(float), b.astype(float)
            assert tensor.max_abs == np.abs(a - b).max()
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert tensor.cosine == pytest.approx(cosine, abs=1e-12)


def test_it_says_which_tensor_of_which_layer_changed(tmp_path: Path) -> None:
    tensors = llama(1)
    name = "model.layers.1.mlp.up_proj.weight"
    changed = tensors[name][1].copy()
    changed.view("<u2")[3, 4] += 2
    a = save(tmp_path / "a", tensors)
    difference = compare(a, save(tmp_path / "b", tensors | {name: ("F16", changed)}))
    assert not difference.same
    (tensor,) = difference.differing
    assert (tensor.name, tensor.layer, tensor.differing, tensor.max_ulp) == (name, "layer 1", 1, 2)
    by_layer = {layer.layer: layer.differing_tensors for layer in difference.layers()}
    assert by_layer == {
        "model.embed_tokens.weight": 0,
        "layer 0": 0,
        "layer 1": 1,
        "model.norm.weight": 0,
        "lm_head.weight": 0,
    }


def test_other_type_other_shape_and_missing_tensors_are_said(tmp_path: Path) -> None:
    tensors = llama(1)
    norm = tensors["model.norm.weight"][1]
    other = dict(tensors)
    other["model.norm.weight"] = ("F32", norm.astype("<f4"))
    other["lm_head.weight"] = ("F16", tensors["lm_head.weight"][1][:-1])
    other["extra"] = other.pop("model.embed_tokens.weight")
    difference = compare(save(tmp_path / "a", tensors), save(tmp_path / "b", other))
    assert difference.only_a == ("model.embed_tokens.weight",)
    assert difference.only_b == ("extra",)
    changes = {t.name: (t.change, t.max_ulp, t.cosine) for t in difference.differing}
    assert changes == {
        "model.norm.weight": ("F16 → F32", None, 1.0),
        "lm_head.weight": ("[40, 32] → [39, 32]", None, None),
    }


def test_numbers_that_are_none_have_no_cosine(tmp_path: Path) -> None:
    tensors = {"w": ("F16", np.array([1.0, np.nan], "<f2"))}
    other = {"w": ("F16", np.array([1.0, 2.0], "<f2"))}
    (tensor,) = compare(save(tmp_path / "a", tensors), save(tmp_path / "b", other)).tensors
    assert tensor.cosine is None
    assert tensor.differing == 1


def test_quantised_tensors_are_compared_by_block_and_by_value(tmp_path: Path) -> None:
    x = llama(1, "F32")["lm_head.weight"][1]
    y = x.copy()
    y[0, 0] = 1.0
    paths = [
        save_gguf(tmp_path / f"{i}.gguf", {"output.weight": ("Q8_0", values)})
        for i, values in enumerate([x, y])
    ]
    (tensor,) = compare(*paths).tensors
    assert (tensor.dtype, tensor.differing, tensor.max_ulp) == ("Q8_0", 1, None)
    a, b = (
        gguf.quants.dequantize(t.data, t.tensor_type).ravel().astype(float)
        for path in paths
        for t in gguf.GGUFReader(path).tensors
    )
    assert tensor.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_quantised_tensors_of_two_types_are_compared_by_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = llama(1, "F32")["lm_head.weight"][1]
    monkeypatch.setattr(diff, "CHUNK", 256)  # several blocks a tensor
    kinds = {"Q8_0": x, "F16": x.astype("<f2"), "F32": x}
    paths = {
        kind: save_gguf(tmp_path / f"{kind}.gguf", {"output.weight": (kind, values)})
        for kind, values in kinds.items()
    }
    eight = gguf.quants.dequantize(gguf.GGUFReader(paths["Q8_0"]).tensors[0].data, Q8_0)
    for kind, values in kinds.items():
        if kind != "Q8_0":
            (tensor,) = compare(paths["Q8_0"], paths[kind]).tensors
            assert (tensor.change, tensor.max_ulp) == (f"Q8_0 → {kind}", None)
            a, b = eight.ravel().astype(float), values.ravel().astype(float)
            wanted = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert tensor.cosine == pytest.approx(wanted, abs=1e-12)
            assert tensor.max_abs == np.abs(a - b).max()


def test_types_without_values_have_no_cosine(tmp_path: Path) -> None:
    a = save(tmp_path / "a", {"w": ("I64", np.array([1, 2], "<i8"))})
    b = save(tmp_path / "b", {"w": ("F32", np.array([1, 2], "<f4"))})
    for second, change in ((a, ""), (b, "I64 → F32")):
        (tensor,) = compare(a, second).tensors
        assert (tensor.change, tensor.cosine, tensor.max_abs) == (change, None, None)


def test_models_without_a_common_name_are_no_pair(tmp_path: Path) -> None:
    a = save(tmp_path / "a", {"x": llama(1)["lm_head.weight"]})
    b = save(tmp_path / "b", {"y": llama(1)["lm_head.weight"]})
    with pytest.raises(CheckpointError, match="no tensor name in common"):
        compare(a, b)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.12.mlp.up_proj.weight", "layer 12"),
        ("transformer.h.3.attn.weight", "layer 3"),
        ("blk.0.attn_q.weight", "layer 0"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_layers_are_found_in_names(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_the_command_shows_layers_tensors_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a, b = str(save(tmp_path / "a", llama(1))), str(save(tmp_path / "b", llama(2)))
    assert cli.main(["diff", a, a]) == 0
    assert capsys.readouterr().out == "the same to the bit: 21 tensors\n"
    assert cli.main(["diff", a, b]) == 1
    shown = capsys.readouterr().out
    assert "layer 1 " in shown
    assert shown.endswith("21 of 21 tensors differ\n")
    assert cli.main(["diff", "--tensors", a, b]) == 1
    assert "model.layers.1.mlp.up_proj.weight" in capsys.readouterr().out
    assert cli.main(["diff", "--json", a, b]) == 1
    assert len(json.loads(capsys.readouterr().out)["differing"]) == 21


def test_the_page_shows_every_tensor_with_its_number(tmp_path: Path) -> None:
    tensors = llama(1)
    name = "model.layers.1.mlp.up_proj.weight"
    changed = tensors[name][1].copy()
    changed.view("<u2")[0, :24] ^= 1
    other = tensors | {name: ("F16", changed), "<b>&": tensors[name]}
    a, b = str(save(tmp_path / "a", tensors)), str(save(tmp_path / "b", other))
    page = tmp_path / "difference.html"
    assert cli.main(["diff", a, b, "--html", str(page)]) == 1
    text = page.read_text()
    assert f"<title>{name}: 1.56</title>" in text  # 24 of 1536 elements, in percent
    assert text.count("<title>model.layers.0.mlp.up_proj.weight: 0</title>") >= 1
    assert "1 of 21 tensors differ" in text
    assert "&lt;b&gt;&amp;: only in the second" in text
    assert "<script" not in text
    assert cli.main(["diff", a, a, "--html", str(page)]) == 0
    assert "The same to the bit" in page.read_text()
