"""The legacy GGML formats, for programs of 2023."""

from __future__ import annotations

from functools import partial

from remerge.quantize.core.format import Format, Sensitive, exact_format

_MORE = ("attn_v", "ffn_down")


_row = partial(exact_format, "ggml", "ctransformers")
_ALL = (
    _row("f16", "F16", 1, "legacy, as the merge", default=True),
    _row("q8_0", "Q8_0", 7, "legacy, blocks of 32", default=True),
    _row("q6_k", "Q6_K", 18, "legacy, blocks of 256, sub-blocks of 16"),
    _row("q5_1", "Q5_1", 9, "legacy, blocks of 32 with an offset", default=True),
    _row(
        "q5_k_m",
        "Q5_K",
        17,
        "legacy, blocks of 256, mixture",
        Sensitive("Q6_K", _MORE, "spread"),
    ),
    _row("q5_k_s", "Q5_K", 16, "legacy, blocks of 256"),
    _row("q5_0", "Q5_0", 8, "legacy, blocks of 32"),
    _row("q4_1", "Q4_1", 3, "legacy, blocks of 32 with an offset"),
    _row(
        "q4_k_m",
        "Q4_K",
        15,
        "legacy, blocks of 256, mixture",
        Sensitive("Q6_K", _MORE, "spread"),
    ),
    _row("q4_k_s", "Q4_K", 14, "legacy, blocks of 256"),
    _row("q4_0", "Q4_0", 2, "legacy, blocks of 32", default=True),
    _row(
        "q3_k_l",
        "Q3_K",
        13,
        "legacy, blocks of 256, large mixture",
        Sensitive("Q5_K", (*_MORE, "attn_output")),
    ),
    _row(
        "q3_k_m",
        "Q3_K",
        12,
        "legacy, blocks of 256, mixture",
        Sensitive("Q4_K", (*_MORE, "attn_output")),
    ),
    _row("q3_k_s", "Q3_K", 11, "legacy, blocks of 256"),
    _row(
        "q2_k",
        "Q2_K",
        10,
        "legacy, blocks of 256, mixture",
        Sensitive("Q4_K", (*_MORE, "attn_output")),
    ),
)
FORMATS: dict[str, Format] = {entry.name: entry for entry in _ALL}
