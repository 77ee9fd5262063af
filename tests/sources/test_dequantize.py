"""Quantized sources become what the libraries dequantize them to, to the bit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.pack_quantized import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file

from remerge.sources.quantized.numbers import E2M1, narrowed, widened
from tests.sources import quantized_models as made
from tests.sources.quantized_models import Tensors

bnb = pytest.importorskip("bitsandbytes").functional
FOUR_BITS = pytest.importorskip("bitsandbytes.backends.default.ops")._dequantize_4bit_compute

pytestmark = pytest.mark.filterwarnings("ignore")


def some(rows: list[Any], plain: int = 2) -> list[Any]:
    """Parameters of a test: the first rows always, the others in a full run."""
    full = [pytest.param(*_values(row), marks=pytest.mark.full) for row in rows[plain:]]
    return [pytest.param(*_values(row)) for row in rows[:plain]] + full


def _values(row: Any) -> tuple[Any, ...]:
    return row if isinstance(row, tuple) else (row,)


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}


def compare(folder: Path, expected: Tensors, **entry: Any) -> Path:
    """Take a checkpoint in and compare it with tensors; returns the folder."""
    plain = made.taken_in(folder, **entry)
    made.require_same_bits(made.weights_of(plain), expected)
    config = json.loads((plain / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == str(next(iter(expected.values())).dtype).removeprefix("torch.")
    return plain


def test_eight_bit_floats_are_those_of_torch() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    for name, kind in (
        ("F8_E4M3", torch.float8_e4m3fn),
        ("F8_E5M2", torch.float8_e5m2),
        ("F8_E8M0", torch.float8_e8m0fnu),
    ):
        expected = every.view(kind).float().numpy()
        np.testing.assert_array_equal(widened(every.numpy(), name), expected)
    from transformers.integrations.mxfp4 import FP4_VALUES

    np.testing.assert_array_equal(E2M1, np.array(FP4_VALUES, np.float32))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_values_are_rounded_as_torch_rounds_them(name: str) -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 1 << 32, 200_000, dtype=np.uint32)
    halfway = (bits & np.uint32(0xFFFF0000)) | np.uint32(0x8000)
    values = np.concatenate([bits, halfway]).view(np.float32)
    values = values[np.isfinite(values)]
    expected = torch.from_numpy(values).to(getattr(torch, name)).view(torch.uint8).numpy()
    short = {"float16": "F16", "bfloat16": "BF16"}[name]
    np.testing.assert_array_equal(narrowed(values, short), expected)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    some(
        [
            ("bfloat16", torch.float32),
            ("float16", torch.float32),
            ("float32", torch.float8_e8m0fnu),
            ("bfloat16", torch.bfloat16),
            ("float32", torch.bfloat16),
            ("bfloat16", torch.float8_e8m0fnu),
        ]
    ),
)
def test_fp8_blocks_are_those_of_transformers(
    tmp_path: Path, dtype: str, scale: torch.dtype
) -> None:
    kind = getattr(torch, dtype)
    folder = made.quantized(tmp_path / "m", made.fp8_blocks(16, 16, scale), FP8, dtype=kind)
    settings = transformers.FineGrainedFP8Config(dequantize=True)
    live = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, dtype=kind
    )
    plain = compare(folder, dict(live.state_dict()))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=kind)
    tokens = torch.arange(1, 17).reshape(1, -1)
    assert torch.equal(loaded(tokens).logits, live(tokens).logits)


def test_fp8_experts_are_those_of_transformers(tmp_path: Path) -> None:
    folder = made.quantized(tmp_path / "m", made.fp8_blocks(16, 16), FP8, "qwen3_moe")
    settings = transformers.FineGrainedFP8Config(dequantize=True)
    live = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, dtype=torch.bfloat16
    )
    plain = made.taken_in(folder)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.bfloat16)
    made.require_same_bits(dict(loaded.state_dict()), dict(live.state_dict()))


def test_fp8_blocks_at_the_edge_are_smaller(tmp_path: Path) -> None:
    """As in DeepSeek-V3, whose 576 rows are four and a half blocks; transformers refuses these."""
    config = FP8 | {"weight_block_size": [20, 12]}
    folder = made.quantized(tmp_path / "m", made.fp8_blocks(20, 12), config)
    stored, expected = load_file(folder / "model.safetensors"), {}
    for name, weight in stored.items():
        scale = stored.get(f"{name}_scale_inv")
        if scale is not None:
            each = scale.repeat_interleave(20, 0).repeat_interleave(12, 1)
            weight = (weight.float() * each[: weight.shape[0], : weight.shape[1]]).bfloat16()
        if not name.endswith("_scale_inv"):
            expected[name] = weight
    compare(folder, expected)


@pytest.mark.parametrize(
    ("shape", "suffix"),
    some(
        [
            ("rows 1", "_scale"),
            ((), "_scale_inv"),
            ((1,), "_scale"),
            ((1, 1), "_scale_inv"),
            ("rows", "_scale"),
            ("rows 1", "_scale_inv"),
        ]
    ),
)
def test_fp8_scales_of_tensors_and_rows(tmp_path: Path, shape: Any, suffix: str) -> None:
    expected: Tensors = {}

    def quantize(name: str, weight: torch.Tensor) -> Tensors:
        sizes = {"rows": (len(weight),), "rows 1": (len(weight), 1)}.get(shape, shape)
        scale = torch.linspace(0.01, 0.02, int(np.prod(sizes))).reshape(sizes)
        values = weight.to(torch.float8_e5m2)
        each = scale.reshape(-1, 1) if scale.numel() > 1 else scale.reshape(())
        expected[name] = (values.float() * each).bfloat16()
        beside = {name.replace("weight", "input_scale"): torch.ones(())}
        return {name: values, f"{name}{suffix}": scale} | beside

    method = "fbgemm_fp8" if shape == "rows 1" else "fp8"
    folder = made.quantized(tmp_path / "m", quantize, {"quant_method": method})
    rest = load_file(folder / "model.safetensors")
    plain = {n: t for n, t in rest.items() if "scale" not in n and n not in expected}
    out = compare(folder, plain | expected)
    notes = json.loads((out / "manifest.json").read_text())["notes"]
    assert ["donor", "", f"14 tensors dequantized from {method} to BF16"] in notes
    dropped = [tensor for _, tensor, text in notes if text == "scale of activations, dropped"]
    assert len(dropped) == 14


PLAIN = ("norm.weight", "embed_tokens.weight", "lm_head.weight")
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16, "symmetric": True}
SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "int4 groups": ("pack-quantized", INT4),
    "int4 groups, zero points": ("pack-quantized", INT4 | {"symmetric": False}),
    "int4 rows": ("pack-quantized", INT4 | {"strategy": "channel", "group_size": None}),
    "int4 rows, zero points": (
        "pack-quantized",
        INT4 | {"strategy": "channel", "group_size": None, "symmetric": False},
    ),
    "int8 packed": ("pack-quantized", INT4 | {"num_bits": 8}),
    "int2 packed": ("pack-quantized", INT4 | {"num_bits": 2, "symmetric": False}),
    "int8 rows": (
        "int-quantized",
        {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True},
    ),
    "int8 tensor, zero points": (
        "int-quantized",
        {"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": False},
    ),
    "fp8 tensor": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True},
    ),
    "fp8 rows": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True},
    ),
    "fp8 blocks": (
        "float-quantized",
        {
            "num_bits": 8,
            "type": "float",
            "strategy": "block",
            "block_structure": [16, 12],
            "symmetric": True,
        },
    ),
    "fp8 groups": ("naive-quantized", INT4 | {"num_bits": 8, "type": "float"}),
}


def compressed(
    folder: Path, form: str, weights: dict[str, Any], dtype: torch.dtype = torch.bfloat16
) -> tuple[Path, Tensors]:
    """A checkpoint that compressed-tensors wrote, and the weights as it decompresses them."""
    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(form)
    expected: Tensors = {}

    def quantize(name: str, weight: torch.Tensor) -> Tensors:
        module = name.removesuffix("weight")
        low, high = _ranges(weight.float(), args)
        scale, zero = calculate_qparams(low, high, args)
        state = {"weight": weight, "weight_scale": scale.to(dtype)}
        if not args.symmetric:
            state["weight_zero_point"] = zero
        stored = compressor.compress(state, scheme)
        expected[name] = compressor.decompress(stored, scheme)["weight"]
        return {f"{module}{key}": value.contiguous() for key, value in stored.items()}

    config = {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }
    made.quantized(folder, quantize, config, dtype=dtype)
    stored = load_file(folder / "model.safetensors")
    plain = {name: t for name, t in stored.items() if name.endswith(PLAIN)}
    return folder, plain | expected


def _ranges(weight: torch.Tensor, args: QuantizationArgs) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = weight.shape
    if args.strategy == "tensor":
        return weight.min().reshape(1), weight.max().reshape(1)
    if args.strategy == "block":
        height, width = args.block_structure
        padded = torch.nn.functional.pad(weight, (0, -columns % width, 0, -rows % height))
        blocks = padded.reshape(padded.shape[0] // height, height, -1, width)
        return blocks.amin((1, 3)), blocks.amax((1, 3))
    groups = weight.reshape(rows, -1, args.group_size or columns)
    return groups.amin(-1), groups.amax(-1)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.bfloat16) for name in SCHEMES]
    + some([(name, torch.float16) for name in SCHEMES], 1),
)
def test_compressed_tensors_are_decompressed(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    folder, expected = compressed(tmp_path / "m", *SCHEMES[name], dtype)
    compare(folder, expected)


def test_compressed_tensors_in_the_order_of_activations(tmp_path: Path) -> None:
    """Columns of a group lie apart: `g_idx` says to which group each column belongs."""
    folder, _ = compressed(tmp_path / "m", *SCHEMES["int4 groups, zero points"])
    expected: Tensors = {}

    def shuffle(tensors: Tensors) -> None:
        stored = dict(tensors)
        scheme = QuantizationScheme(targets=[], weights=QuantizationArgs(**SCHEMES[name][1]))
        compressor = BaseCompressor.get_value_from_registry("pack-quantized")
        for packed in [each for each in stored if each.endswith("weight_packed")]:
            module = packed.removesuffix("weight_packed")
            keys = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")
            state = {key: stored[module + key] for key in keys}
            columns = int(state["weight_shape"][1])
            groups = torch.arange(columns).roll(5) // 16
            groups = groups[torch.randperm(columns, generator=torch.Generator().manual_seed(1))]
            tensors[f"{module}weight_g_idx"] = groups.int()
            # In the order of its groups a weight is one whose columns lie together.
            weight = compressor.decompress(state, scheme)["weight"]
            place = groups.argsort(stable=True).argsort()
            expected[f"{module}weight"] = weight[:, place]
            shape = torch.Size(state["weight_shape"])
            numbers = unpack_from_int32(state["weight_packed"], 4, shape)
            tensors[packed] = pack_to_int32(numbers[:, place].contiguous(), 4).contiguous()

    name = "int4 groups, zero points"
    made.change_tensors(folder, shuffle)
    rest = {n: t for n, t in load_file(folder / "model.safetensors").items() if n.endswith(PLAIN)}
    compare(folder, rest | expected)


@pytest.mark.parametrize(
    ("kind", "nested", "dtype", "storage"),
    some(
        [
            ("nf4", True, torch.bfloat16, torch.uint8),
            ("fp4", False, torch.float16, torch.bfloat16),
            *itertools.product(
                ("nf4", "fp4"),
                (False, True),
                (torch.bfloat16, torch.float16, torch.float32),
                (torch.uint8, torch.bfloat16),
            ),
        ]
    ),
)
def test_bitsandbytes_four_bits(
    tmp_path: Path, kind: str, nested: bool, dtype: torch.dtype, storage: torch.dtype
) -> None:
    expected: Tensors = {}

    def quantize(name: str, weight: torch.Tensor) -> Tensors:
        packed, state = bnb.quantize_4bit(
            weight, None, None, 64, nested, quant_type=kind, quant_storage=storage
        )
        code = bnb.get_4bit_type(kind, device="cpu")
        absmax = state.absmax
        if nested:
            absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
        flat = packed.reshape(-1).view(torch.uint8)
        expected[name] = FOUR_BITS(flat, absmax, code, 64, weight.shape, dtype)
        # The library's own code for this processor may differ in the last bits.
        close = bnb.dequantize_4bit(packed, state).float() - expected[name].float()
        assert close.abs().max() < 0.01
        return {name: packed, **{f"{name}.{k}": v for k, v in state.as_dict(packed=True).items()}}

    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    # Its code for processors needs whole blocks in each row.
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    folder = made.quantized(tmp_path / "m", quantize, config, dtype=dtype, **sizes)
    rest = {n: t for n, t in load_file(folder / "model.safetensors").items() if n.endswith(PLAIN)}
    compare(folder, rest | expected)


def test_bitsandbytes_eight_bits(tmp_path: Path) -> None:
    expected: Tensors = {}

    def quantize(name: str, weight: torch.Tensor) -> Tensors:
        numbers, scale, _ = bnb.int8_vectorwise_quant(weight.half())
        live = torch.ops.bitsandbytes.int8_vectorwise_dequant(numbers, scale)
        expected[name] = live.bfloat16()
        module = name.removesuffix("weight")
        form = torch.zeros((), dtype=torch.uint8)
        return {name: numbers, f"{module}SCB": scale, f"{module}weight_format": form}

    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    folder = made.quantized(tmp_path / "m", quantize, config)
    rest = {n: t for n, t in load_file(folder / "model.safetensors").items() if n.endswith(PLAIN)}
    compare(folder, rest | expected)


def mxfp4(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A tiny gpt_oss as OpenAI stores it: random blocks and exponents."""
    generator = torch.Generator().manual_seed(3)
    settings = {"hidden_size": 64, "intermediate_size": 32, "head_dim": 16}
    folder = made.quantized(folder, lambda n, w: {n: w}, None, "gpt_oss", dtype, **settings)
    made.change_config(folder, quantization_config={"quant_method": "mxfp4"})

    def change(tensors: Tensors) -> None:
        for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
            experts, columns, rows = tensors.pop(name).shape
            shape = (experts, rows, columns // 32, 16)
            blocks = torch.randint(0, 256, shape, generator=generator)
            scales = torch.randint(110, 130, shape[:-1], generator=generator)
            tensors[f"{name}_blocks"] = blocks.to(torch.uint8)
            tensors[f"{name}_scales"] = scales.to(torch.uint8)

    made.change_tensors(folder, change)
    return folder


@pytest.mark.parametrize("dtype", some([torch.bfloat16, torch.float16], 1))
def test_mxfp4_experts_are_those_of_transformers(tmp_path: Path, dtype: torch.dtype) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    folder, expected = mxfp4(tmp_path / "m", dtype), {}
    stored = load_file(folder / "model.safetensors")
    for name, tensor in stored.items():
        if name.endswith("_blocks"):
            scales = stored[name.replace("_blocks", "_scales")]
            found = convert_moe_packed_tensors(tensor, scales, dtype=dtype)
            expected[name.removesuffix("_blocks")] = found
        elif not name.endswith("_scales"):
            expected[name] = tensor
    plain = compare(folder, expected)
    if dtype != torch.bfloat16:  # as which transformers dequantizes, whatever it is asked for
        return
    loaded = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=dtype)
    live = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=transformers.Mxfp4Config(dequantize=True), dtype=dtype
    )
    made.require_same_bits(dict(loaded.state_dict()), dict(live.state_dict()))
