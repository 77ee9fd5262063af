"""Updated weights equal the formulas of the contract to the bit, whatever the chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from remerge.adapters.peft_files import Adapter
from remerge.adapters.updates import (
    BiasShift,
    ExpertsUpdate,
    HadamardUpdate,
    KroneckerUpdate,
    LowRankUpdate,
    Rescaling,
    TokenRows,
    Update,
    VeraUpdate,
)
from remerge.baking.bake import BakePlan
from remerge.errors import NumericError
from remerge.shards import chunks
from remerge.tensors.checkpoint import Checkpoint
from remerge.tensors.layout import OutputTensor
from remerge.tensors.safetensors import TensorInfo, read_header
from tests.kernels.reference import encode

DTYPES = ("F16", "BF16", "F32")
Tensors = dict[str, np.ndarray]


def product(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Σ_k b[:,k]·a[k,:] in float64, k ascending from +0."""
    total = np.zeros((b.shape[0], a.shape[1]))
    for k in range(a.shape[0]):
        total = total + np.outer(b[:, k].astype(np.float64), a[k].astype(np.float64))
    return total


def norm(vector: np.ndarray) -> float:
    """The root of S(v·v): lane j mod 8 takes element j, the lanes are added exactly."""
    lanes = [0.0] * 8
    for j, value in enumerate(vector.tolist()):
        lanes[j % 8] += value * value
    return math.sqrt(math.fsum(lanes))


def dora(weight: np.ndarray, t: Tensors, transposed: bool) -> np.ndarray:
    delta = product(t["b"], t["a"])
    values = weight + 1.7 * (delta.T if transposed else delta)
    vectors = values.T if transposed else values
    rescaled = [
        (np.float64(m) / norm(vector)) * vector for m, vector in zip(t["m"], vectors, strict=True)
    ]
    return np.array(rescaled).T if transposed else np.array(rescaled)


def experts(weight: np.ndarray, t: Tensors, transposed: bool) -> np.ndarray:
    result = np.empty(weight.shape)
    for e in range(3):
        delta = product(t["b"][:, e::3], t["a"][2 * e : 2 * e + 2])
        result[e] = weight[e] + 0.3 * (delta.T if transposed else delta)
    return result


def vera(weight: np.ndarray, t: Tensors, transposed: bool) -> np.ndarray:
    outgoing, incoming = weight.T.shape if transposed else weight.shape
    b = t["lb"].astype(np.float64)[:, None] * t["b"][:outgoing]
    a = t["ld"].astype(np.float64)[:, None] * t["a"][:, :incoming]
    delta = product(b, a)
    return weight + (delta.T if transposed else delta)


def lokr(weight: np.ndarray, t: Tensors) -> np.ndarray:
    c, d = product(t["c_a"], t["c_b"]), t["d"].astype(np.float64)
    result = np.empty(weight.shape)
    for i, j in np.ndindex(*weight.shape):
        result[i, j] = weight[i, j] + 1.1 * (c[i // 4, j // 7] * d[i % 4, j % 7])
    return result


def tokens(weight: np.ndarray, t: Tensors) -> np.ndarray:
    result = weight.copy()
    result[[9, 2, 5]] = t["v"]
    return result


Make = Callable[[dict[str, TensorInfo]], Update]
Formula = Callable[[np.ndarray, Tensors], np.ndarray]
#: Shape of the weight, shapes of the adapter's tensors, the update, its formula.
KINDS: dict[str, tuple[tuple[int, ...], dict[str, tuple[int, ...]], Make, Formula]] = {
    "dora": (
        (21, 19),
        {"a": (5, 19), "b": (21, 5), "m": (21,)},
        lambda i: LowRankUpdate(i["a"], i["b"], 1.7, False, i["m"]),
        lambda w, t: dora(w, t, False),
    ),
    "dora, stored [in, out]": (
        (83, 11),
        {"a": (5, 83), "b": (11, 5), "m": (11,)},
        lambda i: LowRankUpdate(i["a"], i["b"], 1.7, True, i["m"]),
        lambda w, t: dora(w, t, True),
    ),
    "experts [out, in]": (
        (3, 9, 13),
        {"a": (6, 13), "b": (9, 6)},
        lambda i: ExpertsUpdate(i["a"], i["b"], 0.3, 3, False),
        lambda w, t: experts(w, t, False),
    ),
    "experts [in, out]": (
        (3, 9, 13),
        {"a": (6, 9), "b": (13, 6)},
        lambda i: ExpertsUpdate(i["a"], i["b"], 0.3, 3, True),
        lambda w, t: experts(w, t, True),
    ),
    "vera": (
        (10, 12),
        {"a": (3, 20), "b": (30, 3), "ld": (3,), "lb": (10,)},
        lambda i: VeraUpdate(i["a"], i["b"], i["ld"], i["lb"], False),
        lambda w, t: vera(w, t, False),
    ),
    "vera, stored [in, out]": (
        (12, 10),
        {"a": (3, 20), "b": (30, 3), "ld": (3,), "lb": (10,)},
        lambda i: VeraUpdate(i["a"], i["b"], i["ld"], i["lb"], True),
        lambda w, t: vera(w, t, True),
    ),
    "loha": (
        (10, 12),
        {"1a": (10, 3), "1b": (3, 12), "2a": (10, 3), "2b": (3, 12)},
        lambda i: HadamardUpdate((i["1a"], i["1b"]), (i["2a"], i["2b"]), 0.7),
        lambda w, t: w + 0.7 * (product(t["1a"], t["1b"]) * product(t["2a"], t["2b"])),
    ),
    "lokr": (
        (12, 14),
        {"c_a": (3, 2), "c_b": (2, 2), "d": (4, 7)},
        lambda i: KroneckerUpdate((i["c_a"], i["c_b"]), (i["d"],), 1.1),
        lokr,
    ),
    "ia3, outputs": (
        (10, 12),
        {"l": (10, 1)},
        lambda i: Rescaling(i["l"], True, False),
        lambda w, t: w * t["l"].astype(np.float64),
    ),
    "ia3, outputs, stored [in, out]": (
        (10, 12),
        {"l": (12, 1)},
        lambda i: Rescaling(i["l"], True, True),
        lambda w, t: w * t["l"].astype(np.float64).T,
    ),
    "ia3, inputs": (
        (10, 12),
        {"l": (1, 12)},
        lambda i: Rescaling(i["l"], False, False),
        lambda w, t: w * t["l"].astype(np.float64),
    ),
    "ia3, bias": (
        (10,),
        {"l": (10, 1)},
        lambda i: Rescaling(i["l"], True, False),
        lambda w, t: w * t["l"].astype(np.float64)[:, 0],
    ),
    "tokens": (
        (11, 6),
        {"v": (3, 6)},
        lambda i: TokenRows((9, 2, 5), i["v"]),
        tokens,
    ),
    "bias": (
        (11,),
        {"v": (11,)},
        lambda i: BiasShift(i["v"], 0.9),
        lambda w, t: w + 0.9 * t["v"].astype(np.float64),
    ),
}


def plan_of(folder: Path, kind: str, seed: int, dtype: str) -> tuple[BakePlan, np.ndarray, Tensors]:
    """A plan of one tensor, its weight and the adapter's tensors, float16 to be awkward."""
    shape, shapes, make, _ = KINDS[kind]
    random = np.random.default_rng(seed)
    weight = random.standard_normal(shape).astype(np.float32)
    tensors = {n: random.standard_normal(s).astype(np.float16) for n, s in shapes.items()}
    save_file({"w": weight}, folder / "model.safetensors")
    save_file(tensors, folder / "adapter.safetensors")
    model = Checkpoint("model", folder, read_header(folder / "model.safetensors"))
    update = make(read_header(folder / "adapter.safetensors"))
    assert update.expected(shape) == shape
    adapter = Adapter("adapter", folder, {"w": update}, {})
    plan = BakePlan("bake", model, adapter, model.tensors, (), ())
    return plan, weight, {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def computed(plan: BakePlan, shape: tuple[int, ...], dtype: str) -> bytes:
    chunks = plan.compute(OutputTensor("w", dtype, shape))
    return b"".join(part.tobytes() for part in chunks if part is not None)


@pytest.mark.parametrize("chunk", [1 << 18, 40])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_update_equals_its_formula_to_the_bit(
    tmp_path: Path, kind: str, dtype: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    for seed in range(3):
        plan, weight, tensors = plan_of(tmp_path, kind, seed, dtype)
        expected = KINDS[kind][3](weight.astype(np.float64), tensors)
        assert computed(plan, weight.shape, dtype) == encode(expected, dtype).tobytes()


def test_dora_of_a_zero_vector_is_refused(tmp_path: Path) -> None:
    plan, weight, _ = plan_of(tmp_path, "dora", 0, "F32")
    weight[3] = 0
    save_file({"w": weight}, tmp_path / "model.safetensors")
    zero = {"a": np.ones((5, 19)), "b": np.zeros((21, 5)), "m": np.ones(21)}
    save_file({n: t.astype(np.float16) for n, t in zero.items()}, tmp_path / "adapter.safetensors")
    with pytest.raises(NumericError, match=r"'w'.*DoRA divides by the norm.* 0\.0"):
        computed(plan, weight.shape, "F32")


@pytest.mark.parametrize("name", ["a", "m"])
def test_nan_in_an_adapter_is_named(tmp_path: Path, name: str) -> None:
    plan, weight, tensors = plan_of(tmp_path, "dora", 0, "F32")
    tensors[name].reshape(-1)[1] = np.nan
    save_file(
        {n: t.astype(np.float16) for n, t in tensors.items()}, tmp_path / "adapter.safetensors"
    )
    with pytest.raises(NumericError, match=f"adapter: tensor '{name}' holds nan at index"):
        computed(plan, weight.shape, "F32")
