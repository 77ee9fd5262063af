"""Which tensor gets which type: as llama.cpp's quantizer decides it."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from remerge.errors import CheckpointError
from remerge.quantize.core.mixture import Layout, is_among
from remerge.quantize.formats import FORMATS
from remerge.quantize.gguf.mixture import choose_type
from tests.quantize.llama_quantize import CASES, KEPT, NAMES, Case, by_part

PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def types(name: str, layers: int, hidden: int = 4096) -> Counter[str]:
    """How many tensors of a whole Llama become what."""
    parts = [("token_embd", -1, (32000, hidden)), ("output_norm", -1, (hidden,))]
    parts.append(("output", -1, (32000, hidden)))
    for layer in range(layers):
        parts += [(part, layer, (hidden, hidden)) for part in PARTS]
        parts += [(part, layer, (hidden,)) for part in ("attn_norm", "ffn_norm")]
    layout = Layout(layers, 32, 32)
    return Counter(choose_type(*part, FORMATS[name], layout) or "F32" for part in parts)


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
    assert types(name, layers) == expected


def test_first_last_and_every_third_layer_between_are_sensitive() -> None:
    layout = Layout(16, 32, 32)
    found = [layer for layer in range(16) if is_among("spread", layer, 16, layout)]
    assert found == [0, 1, 4, 7, 10, 13, 14, 15]


def test_a_tied_embedding_gets_the_type_of_the_output_matrix() -> None:
    layout = Layout(8, 32, 32, tied=True)
    chosen = choose_type("token_embd", -1, (32000, 4096), FORMATS["gguf_q4_k_m"], layout)
    assert chosen == "Q6_K"


def test_seventy_billion_weights_with_grouped_queries_spend_more_on_values() -> None:
    layout = Layout(80, 64, 8)
    chosen = choose_type("attn_v", 11, (1024, 8192), FORMATS["gguf_q4_k_m"], layout)
    assert chosen == "Q5_K"


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
        ("gguf_q2_k", "attn_q", 160, "Q4_0"),
        ("gguf_iq4_xs", "attn_q", 160, "IQ4_NL"),
    ],
)
def test_columns_that_do_not_fit_fall_back(
    name: str, part: str, columns: int, expected: str
) -> None:
    layer = -1 if part == "output" else 1
    chosen = choose_type(part, layer, (64, columns), FORMATS[name], Layout(4, 32, 32))
    assert chosen == expected


def chosen(case: Case, name: str) -> dict[str, str]:
    """The types of a case's tensors in a format, as `by_part` gives those of llama.cpp."""
    layout = Layout(
        case.layers, case.heads, case.kv_heads, case.tied, case.experts, case.architecture
    )
    types = {}
    for tensor, shape in case.tensors().items():
        place, _, part = tensor.removesuffix(".weight").rpartition(".")
        layer = int(place.removeprefix("blk.") or -1)
        kept = "F32" if len(shape) < 2 else "F16"
        types[tensor] = choose_type(part, layer, shape, FORMATS[name], layout) or kept
    return by_part(types)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", ","))
def test_every_tensor_gets_the_type_that_llama_cpp_gives_it(case: Case) -> None:
    kept = json.loads(KEPT.read_text())[case.name]
    assert kept.keys() == set(NAMES)
    for name, theirs in kept.items():
        if case.architecture != "falcon" or not FORMATS[name].sensitive:
            assert {**chosen(case, name), "file": theirs["file"]} == theirs, name


def test_a_mixture_of_falcon_is_refused() -> None:
    case = next(case for case in CASES if case.architecture == "falcon")
    with pytest.raises(CheckpointError, match="gguf_q4_k_m of falcon has rules of its own"):
        chosen(case, "gguf_q4_k_m")
