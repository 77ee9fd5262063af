"""Block kernels give the bytes of ggml, of the slow reference, and of themselves anywhere."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remerge.quantize.blocks.types import TYPES, BlockType
from tests.quantize import reference

SIMPLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
SUPER = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
#: Root mean square error on N(0, 0.02) that ggml's own quantizer leaves.
ERRORS = {
    "Q2_K": 5.946e-3,
    "Q3_K": 3.022e-3,
    "Q4_K": 1.43e-3,
    "Q5_K": 7.22e-4,
    "Q6_K": 3.55e-4,
    "IQ4_NL": 1.526e-3,
    "IQ4_XS": 1.538e-3,
}


def encoded(kind: BlockType, values: np.ndarray) -> np.ndarray:
    out = np.zeros(kind.size(values.size), np.uint8)
    assert kind.kernel(values, out)
    return out


@pytest.fixture(scope="module")
def ggml_quantize_chunk():
    """llama.cpp's own quantizer, from the shared object of the runtime's wheel."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("xllamacpp is not installed")
    library = next(Path(spec.submodule_search_locations[0]).glob("xllamacpp*.so"))
    function = ctypes.CDLL(str(library)).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    number = ctypes.c_int64
    function.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[number] * 3, ctypes.c_void_p]

    def run(kind: BlockType, values: np.ndarray) -> np.ndarray:
        out = np.zeros(kind.size(values.size), np.uint8)
        rows = values.size // 256
        function(kind.code, values.ctypes.data, out.ctypes.data, 0, rows, 256, None)
        return out

    return run


def awkward_values() -> np.ndarray:
    """Normal weights of many sizes, and blocks that make every branch run: float32 [256·n]."""
    draw = np.random.default_rng(5)
    normal = draw.standard_normal(256 * 64).astype(np.float32)
    half = (normal * np.float32(0.02)).astype(np.float16).astype(np.float32)
    ties = np.sign(normal[: 256 * 8]) * np.float32(0.125)
    sparse = np.where(draw.random(256 * 8) < 0.05, normal[: 256 * 8], 0).astype(np.float32)
    coarse = np.round(normal[: 256 * 8] * 4) / np.float32(4)
    signs = np.abs(normal[: 256 * 4])
    constant = np.repeat(np.float32([0.0, -0.0, 0.5, -0.5, 3e-8, -6e-6, 1e-20, 200.0]), 256)
    outlier = half[: 256 * 4].copy()
    outlier[::256] = 30
    wide = half[: 256 * 4] * np.repeat(np.float32([1e-4, 1e-3, 1.0, 1e3]), 256)
    parts = [half, normal, ties, sparse, coarse, signs, -signs, constant, outlier, wide]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("name", SIMPLE + SUPER)
def test_every_block_equals_that_of_llama_cpp(name: str, ggml_quantize_chunk) -> None:
    kind, values = TYPES[name], awkward_values()
    ours = encoded(kind, values).reshape(-1, kind.nbytes)
    theirs = ggml_quantize_chunk(kind, values).reshape(-1, kind.nbytes)
    different = np.flatnonzero((ours != theirs).any(axis=1))
    assert different.size == 0, f"blocks {different[:5]}"


@pytest.mark.parametrize("name", SIMPLE)
def test_simple_blocks_equal_those_of_the_gguf_package(name: str) -> None:
    import gguf

    # In a block of negative zeros alone `gguf` negates the scale, which is 0; ggml does not.
    kind, values = TYPES[name], awkward_values() + np.float32(0)
    with np.errstate(all="ignore"):
        theirs = gguf.quantize(values.reshape(-1, 256), gguf.GGMLQuantizationType(kind.code))
    assert encoded(kind, values).tobytes() == theirs.tobytes()


def by_reference(name: str, values: np.ndarray) -> bytes:
    """The blocks of `values` by the slow definition."""
    plain = getattr(reference, name.lower())
    with np.errstate(all="ignore"):
        return b"".join(plain(block) for block in values.reshape(-1, TYPES[name].width))


#: Numbers that a float16 scale can hold, of every size down to the smallest of float32.
WEIGHTS = st.floats(-60_000, 60_000, width=32)


@pytest.mark.parametrize("name", SIMPLE)
@given(values=st.lists(WEIGHTS, min_size=32, max_size=32))
@settings(max_examples=150, deadline=None)
def test_simple_blocks_equal_the_slow_reference(name: str, values: list[float]) -> None:
    block = np.array(values, np.float32)
    assert encoded(TYPES[name], block).tobytes() == by_reference(name, block)


@pytest.mark.parametrize("name", SIMPLE)
def test_awkward_simple_blocks_equal_the_slow_reference(name: str) -> None:
    values = awkward_values()[-32 * 1024 :]
    assert encoded(TYPES[name], values).tobytes() == by_reference(name, values)


@pytest.mark.parametrize("name", SUPER)
@given(seed=st.integers(0, 2**32 - 1), step=st.sampled_from([0, 2**-12, 0.25]))
@settings(max_examples=6, deadline=None)
def test_super_blocks_equal_the_slow_reference(name: str, seed: int, step: float) -> None:
    draw = np.random.default_rng(seed)
    values = (draw.standard_normal(256) * draw.choice([1e-6, 0.02, 1.0, 50.0])).astype(np.float32)
    values[draw.random(256) < draw.choice([0.0, 0.5, 0.98])] = 0
    if step:
        values = (np.round(values / np.float32(step)) * np.float32(step)).astype(np.float32)
    assert encoded(TYPES[name], values).tobytes() == by_reference(name, values)


@pytest.mark.parametrize("name", SUPER)
def test_what_is_read_back_is_as_close_as_llama_cpp_leaves_it(name: str) -> None:
    import gguf

    kind = TYPES[name]
    values = (np.random.default_rng(0).standard_normal(1 << 18) * 0.02).astype(np.float32)
    packed = encoded(kind, values).reshape(1, -1)
    back = gguf.dequantize(packed, gguf.GGMLQuantizationType(kind.code)).ravel()
    error = float(np.sqrt(np.mean((back - values) ** 2)))
    assert error == pytest.approx(ERRORS[name], rel=5e-3)


@pytest.mark.parametrize("size", [3e8, 1e13, 3e38])
@pytest.mark.parametrize("name", SIMPLE + SUPER)
def test_a_scale_beyond_float16_is_told(name: str, size: float) -> None:
    kind = TYPES[name]
    values = np.zeros(256, np.float32)
    values[3] = size
    assert not kind.kernel(values, np.zeros(kind.size(256), np.uint8))


DIGEST = """
import hashlib, sys
sys.path[:0] = sys.argv[1:]
from tests.quantize.test_blocks import SIMPLE, SUPER, awkward_values, encoded
from remerge.quantize.blocks.types import TYPES
digest = hashlib.sha256()
for name in SIMPLE + SUPER:
    digest.update(encoded(TYPES[name], awkward_values()).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.full
def test_a_processor_without_any_extension_gives_the_same_bytes() -> None:
    root = Path(__file__).parents[2]
    paths = [str(root), str(root / "src")]

    def digest(**environment: str) -> str:
        command = [sys.executable, "-c", DIGEST, *paths]
        settings = {**os.environ, **environment}
        return subprocess.run(
            command, env=settings, check=True, capture_output=True, text=True
        ).stdout

    assert digest(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == digest()
