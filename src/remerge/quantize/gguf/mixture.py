"""Which ggml type each tensor of a GGUF file gets.

The K mixtures spend more bits where errors hurt most: on the output matrix, and on the value and
down projections of the first and last eighth of the layers and of every third between. The rules
are those of llama.cpp's quantizer (`llama_tensor_get_type` in `src/llama-quant.cpp`, without an
importance matrix) for the architecture `llama`.
"""

from __future__ import annotations

from dataclasses import dataclass

from remerge.quantize.blocks.encoding import BlockType
from remerge.quantize.core.llama import LlamaShape, LlamaTensor
from remerge.quantize.gguf.types import TYPES


@dataclass(frozen=True)
class Mixture:
    """`base` is the type of an ordinary matrix, `file_type` ggml's number for the whole mixture.

    `sensitive` is the type that the sensitive layers get instead, `base` where nothing differs.
    """

    base: str
    sensitive: str
    file_type: int


MIXTURES: dict[str, Mixture] = {
    "gguf_f16": Mixture("F16", "F16", 1),
    "gguf_bf16": Mixture("BF16", "BF16", 32),
    "gguf_q8_0": Mixture("Q8_0", "Q8_0", 7),
    "gguf_q4_0": Mixture("Q4_0", "Q4_0", 2),
    "gguf_q5_0": Mixture("Q5_0", "Q5_0", 8),
    "gguf_q4_k_m": Mixture("Q4_K", "Q6_K", 15),
    "gguf_q5_k_m": Mixture("Q5_K", "Q6_K", 17),
    "gguf_q6_k": Mixture("Q6_K", "Q6_K", 18),
}

#: What stands in for a type when the columns are no multiple of its 256.
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
#: The full-width types, which have no mixture.
_PLAIN = {"F16", "BF16", "Q8_0"}


def is_sensitive(layer: int, layers: int) -> bool:
    """Whether the value and down projections of `layer` get the better type."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _wanted(tensor: LlamaTensor, mixture: Mixture, shape: LlamaShape) -> str:
    """The type by the mixture alone, whatever the number of columns."""
    is_output = tensor.part == "output" or (shape.tied and tensor.part == "token_embd")
    if is_output and mixture.base not in _PLAIN:
        return "Q8_0" if tensor.columns % TYPES[mixture.base].width else "Q6_K"
    if tensor.part in ("attn_v", "ffn_down") and is_sensitive(tensor.layer, shape.layers):
        return mixture.sensitive
    # Eighty layers with grouped queries: the value matrices are an eighth, one more bit is cheap.
    grouped_70b = shape.layers == 80 and shape.heads != shape.kv_heads
    if tensor.part == "attn_v" and grouped_70b and mixture.base == "Q4_K":
        return "Q5_K"
    return mixture.base


def choose_type(tensor: LlamaTensor, mixture: Mixture, shape: LlamaShape) -> BlockType:
    """The type of `tensor`: vectors stay F32, matrices follow the mixture and its fallbacks."""
    if len(tensor.info.shape) < 2:
        return TYPES["F32"]
    name = _wanted(tensor, mixture, shape)
    if tensor.columns % TYPES[name].width:
        name = _FALLBACK.get(name, "F16")
        if tensor.columns % TYPES[name].width:
            name = "F16"
    return TYPES[name]
