"""The legacy GGML formats, for programs of 2023."""

from __future__ import annotations

from remerge.quantize.core.format import Format, Sensitive


def _row(
    name: str,
    kind: str,
    file_type: int,
    description: str,
    *sensitive: Sensitive,
    default: bool = False,
) -> Format:
    return Format(
        f"ggml_{name}",
        "ggml",
        kind,
        sensitive,
        file_type,
        "ctransformers",
        "exact",
        f"legacy, {description}",
        default,
    )


_ALL = (
    _row("f16", "F16", 1, "as the merge", default=True),
    _row("q8_0", "Q8_0", 7, "blocks of 32", default=True),
    _row("q5_1", "Q5_1", 9, "blocks of 32 with an offset", default=True),
    _row("q4_0", "Q4_0", 2, "blocks of 32", default=True),
)
FORMATS: dict[str, Format] = {entry.name: entry for entry in _ALL}
