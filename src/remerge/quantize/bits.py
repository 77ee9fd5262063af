"""Bits a weight of every format, from its row and the sizes of its block types alone.

>>> round(bits_per_weight(FORMATS["gguf_q4_k_m"]), 2)
4.83
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from remerge.quantize.blocks.sizes import SIZES
from remerge.quantize.core.format import Container, Format
from remerge.quantize.core.mixture import Layout
from remerge.quantize.ggml.mixture import choose_type as ggml_type
from remerge.quantize.gguf.mixture import choose_type as gguf_type

#: Llama 2 13B, of which published files are: layers, hidden, feed-forward, vocabulary, heads.
_LAYERS, _HIDDEN, _FEED_FORWARD, _VOCABULARY, _HEADS = 40, 5120, 13824, 32000, 40
_LAYOUT = Layout(_LAYERS, _HEADS, _HEADS)


def _tensors() -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """(part, layer, shape) of all tensors of the model."""
    yield "token_embd", -1, (_VOCABULARY, _HIDDEN)
    for layer in range(_LAYERS):
        yield "attn_norm", layer, (_HIDDEN,)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield part, layer, (_HIDDEN, _HIDDEN)
        yield "ffn_norm", layer, (_HIDDEN,)
        yield "ffn_gate", layer, (_FEED_FORWARD, _HIDDEN)
        yield "ffn_up", layer, (_FEED_FORWARD, _HIDDEN)
        yield "ffn_down", layer, (_HIDDEN, _FEED_FORWARD)
    yield "output_norm", -1, (_HIDDEN,)
    yield "output", -1, (_VOCABULARY, _HIDDEN)


def _gguf(form: Format, part: str, layer: int, shape: tuple[int, ...]) -> float:
    return SIZES[gguf_type(part, layer, shape, form, _LAYOUT) or "F32"].bits


def _ggml(form: Format, part: str, layer: int, shape: tuple[int, ...]) -> float:
    return SIZES[ggml_type(part, layer, shape, form, _LAYOUT)].bits


def _gptq(form: Format, part: str, layer: int, shape: tuple[int, ...]) -> float:
    if layer < 0 or len(shape) < 2:
        return SIZES["F16"].bits
    return int(form.type.removeprefix("I")) + SIZES["F16"].bits / (form.group or shape[1])


_BITS: dict[Container, Callable[[Format, str, int, tuple[int, ...]], float]] = {
    "gguf": _gguf,
    "ggml": _ggml,
    "gptq": _gptq,
}


def bits_per_weight(form: Format) -> float:
    """Bits that a weight of Llama 2 13B takes on average, scales included, metadata not."""
    bits = weights = 0.0
    for part, layer, shape in _tensors():
        size = shape[0] * shape[-1] if len(shape) == 2 else shape[0]
        bits += size * _BITS[form.container](form, part, layer, shape)
        weights += size
    return bits / weights
