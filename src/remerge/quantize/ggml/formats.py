"""The legacy GGML formats, for programs of 2023."""

from __future__ import annotations

from remerge.quantize.core.format import Format


def _row(name: str, description: str) -> Format:
    return Format(
        f"ggml_{name}", "ggml", "exact", "ctransformers", f"legacy ggjt v3, {description}"
    )


_ALL = (
    _row("f16", "float16: for programs of 2023"),
    _row("q4_0", "4 bits"),
    _row("q5_1", "5 bits with an offset"),
    _row("q8_0", "8 bits"),
)
FORMATS: dict[str, Format] = {entry.name: entry for entry in _ALL}
