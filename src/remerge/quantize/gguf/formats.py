"""The GGUF formats. llama.cpp reads all of them, and so does everything that is built on it."""

from __future__ import annotations

from functools import partial

from remerge.quantize.core.format import Format, Sensitive, exact_format

_MORE = ("attn_v", "ffn_down")


_row = partial(exact_format, "gguf", "llama.cpp")
_ALL = (
    _row("f16", "F16", 1, "as the merge", default=True),
    _row("bf16", "BF16", 32, "range of float32, three bits less precision", default=True),
    _row("q8_0", "Q8_0", 7, "blocks of 32: no loss that a benchmark shows", default=True),
    _row("q6_k", "Q6_K", 18, "blocks of 256, sub-blocks of 16", default=True),
    _row("q5_1", "Q5_1", 9, "blocks of 32 with an offset"),
    _row(
        "q5_k_m",
        "Q5_K",
        17,
        "blocks of 256, mixture",
        Sensitive("Q6_K", _MORE, "spread"),
        default=True,
    ),
    _row("q5_k_s", "Q5_K", 16, "blocks of 256"),
    _row("q5_0", "Q5_0", 8, "blocks of 32", default=True),
    _row("q4_1", "Q4_1", 3, "blocks of 32 with an offset"),
    _row(
        "q4_k_m",
        "Q4_K",
        15,
        "blocks of 256, mixture: what most people take",
        Sensitive("Q6_K", _MORE, "spread"),
        default=True,
    ),
    _row(
        "q4_k_s",
        "Q4_K",
        14,
        "blocks of 256, small mixture",
        Sensitive("Q5_K", ("attn_v",), "first 4"),
        Sensitive("Q5_K", ("ffn_down",), "first L/8"),
    ),
    _row(
        "iq4_nl",
        "IQ4_NL",
        25,
        "blocks of 32, uneven levels",
        Sensitive("Q5_K", ("attn_v",), "grouped"),
        Sensitive("Q5_K", ("ffn_down",), "first L/8"),
    ),
    _row("q4_0", "Q4_0", 2, "blocks of 32: the fastest on small machines", default=True),
    _row(
        "iq4_xs",
        "IQ4_XS",
        30,
        "blocks of 256, uneven levels",
        Sensitive("Q5_K", ("attn_v",), "grouped"),
        Sensitive("Q5_K", ("ffn_down",), "first L/8"),
    ),
    _row(
        "q3_k_l",
        "Q3_K",
        13,
        "blocks of 256, large mixture",
        Sensitive("Q5_K", (*_MORE, "attn_output")),
    ),
    _row(
        "q3_k_m",
        "Q3_K",
        12,
        "blocks of 256, mixture",
        Sensitive("Q5_K", ("attn_v",), "first 2"),
        Sensitive("Q5_K", ("ffn_down",), "first L/16"),
        Sensitive("Q4_K", (*_MORE, "attn_output")),
    ),
    _row("q3_k_s", "Q3_K", 11, "blocks of 256"),
    _row(
        "q2_k",
        "Q2_K",
        10,
        "blocks of 256, mixture: the smallest, with a loss that is felt",
        Sensitive("Q4_K", ("attn_v",), "grouped"),
        Sensitive("Q3_K", (*_MORE, "attn_output")),
    ),
)
FORMATS: dict[str, Format] = {entry.name: entry for entry in _ALL}
