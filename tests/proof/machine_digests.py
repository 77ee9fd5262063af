"""What this machine makes of given inputs: SHA-256 of every merge, quantisation and reference.

    python -m tests.proof.machine_digests INPUTS WORK

Prints JSON. Run on two instruction sets it must print the same. The kernels are also held against
the plain formulas of the tests here, so an emulator that errs in both would have to err alike.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from remerge.adapters.peft_files import read_adapter
from remerge.arithmetic.distance import RESULTS, compare_16, compare_32
from remerge.baking.bake import plan_bake
from remerge.methods.gradient import Gradient, plan_gradient
from remerge.methods.ties import Donor, TiesSettings, plan_ties
from remerge.quantize import quantize
from remerge.quantize.blocks.types import TYPES
from remerge.quantize.formats import FORMATS
from remerge.quantize.gptq.packing import group_scales
from remerge.quantize.gptq.solver import solve
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import open_checkpoint, raw_bytes, read_f32
from remerge.tensors.safetensors import read_header
from tests.kernels import reference as merges
from tests.quantize import reference as blocks

SHARD_BYTES = 10_000
GRADIENT = (0.0, 0.35, 0.65, 1.0)
DENSITIES = (0.33, 0.5, 1.0)
WEIGHTS = (1.0, 0.7, 0.3)
LORA_SCALE = 6 / 4


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def folder_digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()) for path in sorted(folder.iterdir())}


def merged(inputs: Path, work: Path) -> dict[str, dict[str, str]]:
    """Every kind of merge of the small models, in every output type."""
    base = open_checkpoint(inputs / "base")
    first, second, third = (open_checkpoint(inputs / name) for name in ("f16", "bf16", "f32"))
    donors = [
        Donor(model, density, weight, "truncate")
        for model, density, weight in zip((first, second, third), DENSITIES, WEIGHTS, strict=True)
    ]
    plans: dict[str, Callable[[str], object]] = {
        "ties": lambda dtype: plan_ties(
            base, donors, TiesSettings(), dtype=dtype, shard_bytes=SHARD_BYTES
        ),
        "ties by count": lambda dtype: plan_ties(
            base,
            donors,
            TiesSettings(lam=0.9, normalize=False, elect="count"),
            dtype=dtype,
            shard_bytes=SHARD_BYTES,
        ),
        "bake": lambda dtype: plan_bake(
            base, read_adapter(inputs / "adapter"), dtype=dtype, shard_bytes=SHARD_BYTES
        ),
        "gradient": lambda dtype: plan_gradient(
            base, third, Gradient(GRADIENT, "tensors", "all", ""), dtype=dtype,
            shard_bytes=SHARD_BYTES,
        ),
    }  # fmt: skip
    found = {}
    for name, plan in plans.items():
        for dtype in ("F16", "BF16", "F32"):
            out = work / f"{name} {dtype}"
            settings = {"scratch": work / "scratch", "threads": 2}
            build(plan(dtype), out, companions=companions_of(base.folder), **settings)
            found[out.name] = folder_digests(out)
    return found


def by_formula(inputs: Path, work: Path) -> dict[str, str]:
    """The plain formulas on the same inputs; AssertionError where a kernel's result differs."""
    base, third = open_checkpoint(inputs / "base"), open_checkpoint(inputs / "f32")
    donors = [open_checkpoint(inputs / name) for name in ("f16", "bf16", "f32")]
    adapter = read_factors(inputs / "adapter")
    ratios = merges.gradient_ratios(GRADIENT, len(base.tensors))
    totals: dict[str, hashlib._Hash] = {}
    for ratio, (name, info) in zip(ratios, base.tensors.items(), strict=True):
        start = read_f32(info)
        ends = [read_f32(donor.tensors[name])[: start.size] for donor in donors]
        found = {
            "ties": merges.ties(start, ends, DENSITIES, WEIGHTS),
            "ties by count": merges.ties(start, ends, DENSITIES, WEIGHTS, 0.9, False, "count"),
            "gradient": merges.blend(start, read_f32(third.tensors[name]), ratio),
            "bake": start,
        }
        if name in adapter:
            weight = start.reshape(info.shape)
            found["bake"] = merges.bake(weight, *adapter[name], LORA_SCALE)
        for way, values in found.items():
            for dtype in ("F16", "BF16", "F32"):
                made = open_checkpoint(work / f"{way} {dtype}").tensors[name]
                wanted = merges.encode(values, dtype)
                assert np.array_equal(raw_bytes(made), wanted), f"{way} {dtype}: {name}"
                totals.setdefault(f"{way} {dtype}", hashlib.sha256()).update(wanted.tobytes())
    return {way: total.hexdigest() for way, total in totals.items()}


def read_factors(adapter: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A and B of each weight that the adapter changes, as float32 matrices."""
    infos = read_header(adapter / "adapter_model.safetensors")
    found = {}
    for name in infos:
        stem, _, half = name.removeprefix("base_model.model.").partition(".lora_")
        if half == "A.weight":
            pair = (infos[name], infos[name.replace("lora_A", "lora_B")])
            a, b = (read_f32(info).reshape(info.shape) for info in pair)
            found[f"{stem}.weight"] = (a, b)
    return found


def quantised_blocks(values: np.ndarray) -> dict[str, str]:
    """Every block type, and the slow definition of those that round in blocks."""
    found = {}
    for name, kind in TYPES.items():
        out = np.zeros(kind.size(values.size), np.uint8)
        assert kind.kernel(values, out), name
        found[name] = sha256(out.tobytes())
        plain = getattr(blocks, name.lower(), None)
        if plain is not None:
            few = values[: 256 * 4]
            wanted = b"".join(plain(block) for block in few.reshape(-1, kind.width))
            assert out[: len(wanted)].tobytes() == wanted, name
            found[f"{name} by formula"] = sha256(wanted)
    return found


def fitted(inputs: Path) -> dict[str, str]:
    """The GPTQ solver in both orders, and the paper's algorithm on LAPACK."""
    weight, hessian = np.load(inputs / "weight.npy"), np.load(inputs / "hessian.npy")
    scales, raw = group_scales(weight, "F16", FORMATS["gptq_4bit_128g"])
    found = {"scales": sha256(raw.tobytes())}
    wide = weight.astype(np.float64)
    for by_activation in (False, True):
        order = np.arange(len(hessian))
        if by_activation:
            order = np.argsort(-hessian.diagonal(), kind="stable")
        with ThreadPoolExecutor(2) as pool:
            codes = solve(wide, hessian, scales, bits=4, by_activation=by_activation, pool=pool)
        assert np.array_equal(codes, blocks.gptq(wide, hessian, scales, order, 4))
        found[f"by activation: {by_activation}"] = sha256(codes.tobytes())
    return found


def quantised_models(model: Path, work: Path) -> dict[str, dict[str, str]]:
    """A whole Llama in both containers: with `quantised_blocks`, every format of theirs."""
    found = {}
    for name in ("gguf_q4_k_m", "ggml_q5_1"):
        quantize(model, work / name, name, threads=2)
        found[name] = folder_digests(work / name)
    return found


def distances(inputs: Path) -> dict[str, list[str]]:
    """The numbers of `remerge diff`, to the last bit."""
    a, b = (open_checkpoint(inputs / name).tensors["lm_head.weight"] for name in ("base", "f16"))
    halves, singles = np.zeros(RESULTS), np.zeros(RESULTS)
    compare_16(raw_bytes(a).view("<u2").copy(), raw_bytes(b).view("<u2").copy(), 0, halves)
    compare_32(read_f32(a).view("<u4"), read_f32(b).view("<u4"), singles)
    return {"16": [float(x).hex() for x in halves], "32": [float(x).hex() for x in singles]}


def digests(inputs: Path, work: Path) -> dict[str, object]:
    """All of it; `model` among the inputs is a Llama folder with a tokenizer."""
    values = np.load(inputs / "values.npy")
    assert math.isfinite(float(np.abs(values).max()))
    return {
        "merges": merged(inputs, work),
        "formulas": by_formula(inputs, work),
        "blocks": quantised_blocks(values),
        "GPTQ": fitted(inputs),
        "formats": quantised_models(inputs / "model", work),
        "distances": distances(inputs),
    }


if __name__ == "__main__":
    result = digests(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"machine": platform.machine(), "digests": result}))
