"""The GGUF formats. llama.cpp reads all of them, and so does everything that is built on it."""

from __future__ import annotations

from remerge.quantize.core.format import Format


def _row(name: str, description: str) -> Format:
    return Format(f"gguf_{name}", "gguf", "exact", "llama.cpp", description)


_ALL = (
    _row("f16", "float16, what every other GGUF is compared with"),
    _row("bf16", "bfloat16: the range of float32, three bits less precision than float16"),
    _row("q8_0", "8 bits, blocks of 32: no loss that a benchmark shows"),
    _row("q4_0", "4 bits, blocks of 32: the fastest on small machines"),
    _row("q5_0", "5 bits, blocks of 32"),
    _row("q4_k_m", "4 bits, blocks of 256, more for the sensitive tensors: what most people take"),
    _row("q5_k_m", "5 bits, blocks of 256, more for the sensitive tensors"),
    _row("q6_k", "6 bits, blocks of 256"),
)
FORMATS: dict[str, Format] = {entry.name: entry for entry in _ALL}
