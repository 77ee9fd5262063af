"""SHA-256 of what every method makes of given tensors, for comparison between machines.

    python -m tests.methods.digests

Prints JSON. It must be the same for every instruction set, thread count and block size.
"""

from __future__ import annotations

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from remerge.methods.registry import METHODS
from tests.kernels.reference import encode
from tests.methods.running import inputs_of, merged

SHAPES = ((4097,), (262145,), (515, 513), (3, 40, 77))
GIVEN: dict[str, list[dict]] = {
    "linear": [{"weight": [0.3, 0.5, 0.7]}],
    "task_arithmetic": [{"weight": [0.3, -0.5, 0.7], "lambda": 0.9}],
    "ties": [{"density": 0.3}, {"density": 0.3, "rescale": True}],
    "dare_linear": [{"density": 0.4}, {"density": 0.4, "rescale_norm": "l1"}],
    "dare_ties": [{"density": 0.4, "normalize": True, "elect": "count"}],
    "della": [{"density": 0.4, "rescale_norm": "l1"}, {"density": 0.6}],
    "della_linear": [{"density": 0.4}],
    "breadcrumbs": [{"density": 0.4, "gamma": 0.02}],
    "breadcrumbs_ties": [{"density": 0.4, "rescale": True}],
    "slerp": [{"t": 0.3}],
    "nuslerp": [
        {"weight": [0.3, 0.5]},
        {"weight": [0.3, 0.5], "nuslerp_flatten": False},
        {"weight": [0.3, 0.5], "nuslerp_flatten": False, "nuslerp_row_wise": True},
    ],
    "multislerp": [{"weight": [0.3, 0.5, 0.7]}],
    "karcher": [{}],
    "model_stock": [{}, {"filter_wise": True}],
    "sce": [{"select_topk": 0.3}, {}],
    "nearswap": [{"t": 0.001}],
    "arcee_fusion": [{}],
    "passthrough": [{"scale": 0.7}],
    "gradient": [{"ratio": 0.3}],
}


def family(shape: tuple[int, ...], models: int) -> dict:
    """A base and models of three types; multiples of one step, so that many magnitudes tie."""
    rng = np.random.default_rng(math.prod(shape))
    base = (rng.integers(-60, 60, shape) * 2.0**-11).astype(np.float32)
    tensors = [("F16", encode(base, "F16"))]
    for dtype in ("BF16", "F32", "F16")[:models]:
        delta = (rng.integers(-9, 9, shape) * 2.0**-13).astype(np.float32)
        tensors.append((dtype, encode(base + delta, dtype)))
    return {"shape": shape, "base": tensors[0], "models": tensors[1:], "dtype": "F32"}


def digest(job: tuple[str, dict, tuple[int, ...], int]) -> str:
    """SHA-256 of one merge with blocks of some size."""
    method, given, shape, block = job
    least, most = METHODS[method].models
    models = max(least, min(3, most or 3))
    inputs = inputs_of(family(shape, models), METHODS[method].base == "required", block)
    data, statistics = merged(method, inputs, given)
    return hashlib.sha256(data + json.dumps(statistics).encode()).hexdigest()


def method_digests(threads: int = 1, block: int = 512) -> dict[str, str]:
    """All of them by a readable name."""
    jobs = [
        (method, given, shape, block)
        for method, variants in GIVEN.items()
        for given in variants
        for shape in SHAPES
    ]
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(digest, jobs)
    return {f"{m} {json.dumps(g)} {s}": d for (m, g, s, _), d in zip(jobs, found, strict=True)}


if __name__ == "__main__":
    print(json.dumps(method_digests()))
