"""Which tensor gets which type: as llama.cpp's quantizer decides it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from remerge.quantize.core.llama import LlamaShape, LlamaTensor
from remerge.quantize.gguf.mixture import MIXTURES, choose_type, is_sensitive
from remerge.tensors.safetensors import TensorInfo

PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def shape_of(
    layers: int, hidden: int = 4096, *, tied: bool = False, kv_heads: int = 32
) -> LlamaShape:
    return LlamaShape(
        32000, hidden, hidden * 3, layers, 32, kv_heads, hidden // 32, 4096, 1e4, 1.0, 1e-5, tied
    )


def tensor(part: str, layer: int, *sizes: int) -> LlamaTensor:
    return LlamaTensor(part, layer, TensorInfo(part, "F16", sizes, Path("x"), 0, 0))


def types(name: str, shape: LlamaShape) -> Counter[str]:
    """How many tensors of a whole model become what."""
    hidden = shape.hidden
    tensors = [tensor("token_embd", -1, 32000, hidden), tensor("output_norm", -1, hidden)]
    if not shape.tied:
        tensors.append(tensor("output", -1, 32000, hidden))
    for layer in range(shape.layers):
        tensors += [tensor(part, layer, hidden, hidden) for part in PARTS]
        tensors += [tensor(part, layer, hidden) for part in ("attn_norm", "ffn_norm")]
    return Counter(choose_type(each, MIXTURES[name], shape).name for each in tensors)


# The counts that llama.cpp prints for the published files of Llama 2.
@pytest.mark.parametrize(
    ("layers", "name", "expected"),
    [
        (32, "gguf_q4_k_m", {"F32": 65, "Q4_K": 193, "Q6_K": 33}),
        (32, "gguf_q5_k_m", {"F32": 65, "Q5_K": 193, "Q6_K": 33}),
        (40, "gguf_q4_k_m", {"F32": 81, "Q4_K": 241, "Q6_K": 41}),
        (40, "gguf_q4_0", {"F32": 81, "Q4_0": 281, "Q6_K": 1}),
        (40, "gguf_q6_k", {"F32": 81, "Q6_K": 282}),
        (40, "gguf_q8_0", {"F32": 81, "Q8_0": 282}),
    ],
)
def test_llama_2_gets_the_types_of_its_published_files(
    layers: int, name: str, expected: dict[str, int]
) -> None:
    assert types(name, shape_of(layers)) == expected


def test_first_last_and_every_third_layer_between_are_sensitive() -> None:
    assert [layer for layer in range(16) if is_sensitive(layer, 16)] == [0, 1, 4, 7, 10, 13, 14, 15]


def test_a_tied_embedding_gets_the_type_of_the_output_matrix() -> None:
    shape = shape_of(8, tied=True)
    chosen = choose_type(tensor("token_embd", -1, 32000, 4096), MIXTURES["gguf_q4_k_m"], shape)
    assert chosen.name == "Q6_K"


def test_seventy_billion_weights_with_grouped_queries_spend_more_on_values() -> None:
    shape = shape_of(80, kv_heads=8)
    chosen = choose_type(tensor("attn_v", 11, 1024, 8192), MIXTURES["gguf_q4_k_m"], shape)
    assert chosen.name == "Q5_K"


@pytest.mark.parametrize(
    ("name", "part", "columns", "expected"),
    [
        ("gguf_q4_k_m", "attn_q", 160, "Q5_0"),
        ("gguf_q5_k_m", "attn_q", 160, "Q5_1"),
        ("gguf_q6_k", "attn_q", 160, "Q8_0"),
        ("gguf_q4_k_m", "output", 160, "Q8_0"),
        ("gguf_q4_0", "output", 160, "Q8_0"),
        ("gguf_q4_k_m", "attn_q", 40, "F16"),
        ("gguf_q8_0", "attn_q", 40, "F16"),
    ],
)
def test_columns_that_do_not_fit_fall_back(
    name: str, part: str, columns: int, expected: str
) -> None:
    layer = -1 if part == "output" else 1
    assert (
        choose_type(tensor(part, layer, 64, columns), MIXTURES[name], shape_of(4)).name == expected
    )
