"""The GPTQ formats."""

from __future__ import annotations

from remerge.quantize.core.format import Format


def _row(name: str, description: str) -> Format:
    return Format(f"gptq_{name}", "gptq", "stable", "transformers", description)


_ALL = (
    _row("4bit_128g", "4 bits, groups of 128, calibrated, for transformers and vLLM"),
    _row("4bit_128g_actorder", "the same, the largest inputs first"),
)
FORMATS: dict[str, Format] = {entry.name: entry for entry in _ALL}
