"""GPTQ: a checkpoint that transformers loads, better than rounding, the same on every machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from remerge.errors import CheckpointError, NumericError, RecipeError
from remerge.quantize import quantize
from remerge.quantize.core.llama import read_shape
from remerge.quantize.core.perplexity import measure
from remerge.quantize.formats import FORMATS
from remerge.quantize.gptq.dequantize import open_weights as gptq_weights
from remerge.quantize.gptq.packing import bits_of, group_scales, pack, unpack
from remerge.quantize.gptq.solver import DAMPING, solve
from remerge.tensors.checkpoint import read_config
from tests.quantize.reference import gptq

NAMES = ("gptq_4bit_128g", "gptq_4bit_128g_actorder")
#: One of each number of bits, of each kind of group, in both orders.
KINDS = (*NAMES, "gptq_4bit_32g", "gptq_8bit", "gptq_8bit_128g_actorder", "gptq_8bit_actorder")


def problem(
    name: str = NAMES[0], columns: int = 256, rows: int = 24
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, second moments of correlated inputs, and scales."""
    draw = np.random.default_rng(7)
    inputs = draw.standard_normal((4 * columns, columns)) @ draw.standard_normal((columns, columns))
    inputs *= draw.lognormal(sigma=1.0, size=columns)
    weight = draw.standard_normal((rows, columns)).astype(np.float32)
    scales, _ = group_scales(weight, "F16", FORMATS[name])
    return weight.astype(np.float64), inputs.T @ inputs / len(inputs), scales


@pytest.mark.parametrize("name", KINDS)
def test_the_solver_finds_what_the_slow_reference_finds(name: str) -> None:
    weight, hessian, scales = problem(name)
    form = FORMATS[name]
    order = np.argsort(-hessian.diagonal(), kind="stable") if form.by_activation else np.arange(256)
    with ThreadPoolExecutor(2) as pool:
        codes = solve(
            weight,
            hessian,
            scales,
            bits=bits_of(form),
            by_activation=form.by_activation,
            pool=pool,
        )
    assert scales.shape[1] == (256 // form.group if form.group else 1)
    assert np.array_equal(codes, gptq(weight, hessian, scales, order, bits_of(form)))


def test_noise_of_a_thousand_roundings_moves_no_code() -> None:
    weight, hessian, scales = problem()
    noise = 1 + np.random.default_rng(1).uniform(-1e-13, 1e-13, hessian.shape)
    with ThreadPoolExecutor(1) as pool:
        runs = [
            solve(weight, moment, scales, bits=4, by_activation=True, pool=pool)
            for moment in (hessian, hessian * (noise + noise.T) / 2)
        ]
    assert np.array_equal(*runs)


def test_an_input_that_is_always_zero_gets_code_zero() -> None:
    weight, hessian, scales = problem()
    hessian[9] = hessian[:, 9] = 0
    with ThreadPoolExecutor(1) as pool:
        codes = solve(weight, hessian, scales, bits=4, by_activation=False, pool=pool)
    assert not codes[:, 9].any()
    assert codes[:, 10].any()


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_lie_as_compressed_tensors_packs_them(bits: int) -> None:
    top = 2 ** (bits - 1)
    codes = np.random.default_rng(0).integers(-top, top, (5, 64)).astype(np.int8)
    assert np.array_equal(unpack(pack(codes, bits), bits), codes)
    compressors = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    import torch

    theirs = compressors.pack_to_int32(torch.from_numpy(codes), bits)
    assert np.array_equal(theirs.numpy(), pack(codes, bits))


@pytest.mark.parametrize("name", KINDS)
def test_transformers_loads_it_and_computes_with_its_weights(
    tiny_llama: Path, quantized: Callable[[str], Path], name: str
) -> None:
    pytest.importorskip("compressed_tensors")
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(quantized(name))
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([[1, 259, 300, 286, 310]])).logits).all()
    shape = read_shape(read_config(tiny_llama), "model")
    weights = gptq_weights(quantized(name), shape, tiny_llama)
    loaded = model.model.layers[2].mlp.down_proj.weight.detach().numpy()
    # transformers multiplies code and scale in float16.
    expected = weights("ffn_down", 2).astype(np.float16)
    assert np.array_equal(loaded, expected)


@pytest.mark.parametrize("name", NAMES)
def test_it_loses_less_than_the_other_four_bit_formats(
    tiny_llama: Path, quantized: Callable[[str], Path], text: Path, name: str
) -> None:
    fitted = measure(tiny_llama, quantized(name), text, windows=4)
    rounded = measure(tiny_llama, quantized("gguf_q4_0"), text, windows=4)
    assert fitted.divergence < rounded.divergence
    assert fitted.agreement > rounded.agreement


def test_what_is_not_fitted_stays_as_it_was(
    tiny_llama: Path, quantized: Callable[[str], Path]
) -> None:
    from remerge.tensors.checkpoint import open_checkpoint, raw_bytes
    from remerge.tensors.safetensors import read_header

    before = open_checkpoint(tiny_llama).tensors
    after = read_header(quantized(NAMES[0]) / "model.safetensors")
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert np.array_equal(raw_bytes(before[name]), raw_bytes(after[name]))


DIGEST = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from remerge.quantize import quantize
model, out, text, threads = sys.argv[2:]
for name in ("gptq_4bit_128g", "gptq_4bit_128g_actorder"):
    report = quantize(model, Path(out) / name, name, threads=int(threads), calibration=Path(text))
    print(report.sha256)
"""


@pytest.mark.full
def test_threads_and_code_paths_move_no_code(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    without_avx512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL X86_V4"
    plain = f"AVX2 FMA3 {without_avx512} X86_V3"
    environments = (
        {"OPENBLAS_NUM_THREADS": "2"},
        {"OPENBLAS_NUM_THREADS": "1"},
        {"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": without_avx512},
        {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": plain},
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    )
    source = str(Path(__file__).parents[2] / "src")
    digests = set()
    for number, environment in enumerate(environments):
        out, threads = tmp_path / str(number), str(number % 3 + 1)
        command = [sys.executable, "-c", DIGEST, source, tiny_llama, out, text, threads]
        done = subprocess.run(
            list(map(str, command)),
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
            text=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


@pytest.mark.full
@pytest.mark.parametrize("name", KINDS)
def test_the_solver_of_llmcompressor_finds_the_same_codes(name: str) -> None:
    library = pytest.importorskip("llmcompressor.modifiers.gptq.gptq_quantize")
    import torch
    from compressed_tensors.quantization import QuantizationArgs

    form = FORMATS[name]
    weight, hessian, scales = problem(name)
    settings = QuantizationArgs(
        num_bits=bits_of(form),
        symmetric=True,
        strategy="group" if form.group else "channel",
        group_size=form.group or None,
        actorder="static" if form.by_activation and form.group else None,
    )
    batch = [torch.tensor(array[None], dtype=torch.float32) for array in (weight, hessian, scales)]
    zero = torch.zeros_like(batch[2])
    rounded, _, _ = library.quantize_weight(*batch, zero, None, settings, percdamp=DAMPING)
    theirs = np.round(rounded[0].numpy() / np.repeat(scales, 256 // scales.shape[1], axis=1))
    # The library has no order by activation for whole rows.
    ordered = form.by_activation and form.group > 0
    with ThreadPoolExecutor(1) as pool:
        ours = solve(weight, hessian, scales, bits=bits_of(form), by_activation=ordered, pool=pool)
    # The library computes in float32: here and there a code may lie on the other side of a border.
    assert (ours == theirs).mean() > 0.999


def test_a_missing_or_empty_text_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs a calibration text"):
        quantize(tiny_llama, tmp_path / "out", NAMES[0])
    with pytest.raises(RecipeError, match="does not exist"):
        quantize(tiny_llama, tmp_path / "out", NAMES[0], calibration=tmp_path / "none.txt")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(RecipeError, match="gives no tokens"):
        quantize(tiny_llama, tmp_path / "out", NAMES[0], calibration=tmp_path / "empty.txt")


def test_columns_that_are_no_multiple_of_the_group_are_refused(
    make_llama: Callable[..., Path], tmp_path: Path, text: Path
) -> None:
    folder = make_llama(intermediate_size=320, num_hidden_layers=1)
    with pytest.raises(CheckpointError, match="320 columns are no multiple of the group of 128"):
        quantize(folder, tmp_path / "out", NAMES[0], calibration=text)


def test_nan_is_refused(tiny_llama: Path, tmp_path: Path, text: Path) -> None:
    from remerge.tensors.checkpoint import open_checkpoint

    folder = Path(shutil.copytree(tiny_llama, tmp_path / "m"))
    info = open_checkpoint(folder).tensors["model.layers.0.mlp.up_proj.weight"]
    data = bytearray(info.path.read_bytes())
    data[info.offset + 4 : info.offset + 6] = b"\x01\x7e"
    info.path.write_bytes(data)
    with pytest.raises(NumericError, match=r"up_proj.*nan at index \[0, 2\]"):
        quantize(folder, tmp_path / "out", NAMES[0], calibration=text)
    assert not list((tmp_path / "out").iterdir())


def test_the_configuration_names_the_layout(quantized: Callable[[str], Path]) -> None:
    config = json.loads((quantized(NAMES[1]) / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    weights = config["quantization_config"]["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["group_size"], weights["actorder"]) == (4, 128, "static")
