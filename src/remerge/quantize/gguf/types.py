"""The number types of GGUF: those that GGML has too, and the K types."""

from __future__ import annotations

from remerge.quantize.blocks.encoding import TYPES as SIMPLE
from remerge.quantize.blocks.encoding import BlockType
from remerge.quantize.gguf import q4_k, q6_k

#: By ggml's name; `code` is ggml's number.
TYPES: dict[str, BlockType] = {
    **SIMPLE,
    "Q4_K": BlockType("Q4_K", 12, 256, 144, q4_k.q4_k),
    "Q5_K": BlockType("Q5_K", 13, 256, 176, q4_k.q5_k),
    "Q6_K": BlockType("Q6_K", 14, 256, 210, q6_k.q6_k),
}
