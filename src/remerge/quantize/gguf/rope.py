"""Rotary embeddings as `config.json` describes them and as a GGUF file says them.

>>> read_rope(config, "model", limit=8192).scaling
'yarn'

transformers reads `rope_scaling` before `rope_parameters`, and the base from the table, then from
`rope_theta` of the configuration. Kinds: *linear* divides positions by a factor; *yarn* (Peng et
al. 2023, arXiv 2309.00071) interpolates by wavelength; *llama3* divides each frequency by a factor
of its own, which a file holds as the tensor `rope_freqs`; *longrope* has two lists of factors;
*dynamic* is the plain embedding until the context is full.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

import numpy as np

from remerge.errors import CheckpointError, printable
from remerge.quantize.core.llama import positive_integer, positive_number, rope_table

#: What a runtime assumes where the table of yarn says nothing.
_YARN_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0}
#: Keys of yarn whose meaning no key of a GGUF file has.
_YARN_OTHERS = ("mscale", "mscale_all_dim", "truncate", "attention_factor")
#: Decimal digits of every step, so that no library's logarithm or power decides a bit.
_DIGITS = 50
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582")


@dataclass(frozen=True)
class Rope:
    """`scaling` is the kind in GGUF (empty: none), `original` the context before it was scaled.

    `factors` are the lists of factors by the name of their tensor. `attention` multiplies scores
    with longrope. `notes` tell what differs beyond the context.
    """

    base: float
    scaling: str = ""
    factor: float = 1.0
    original: int = 0
    attention: float = 0.0
    betas: tuple[float, float] = (32.0, 1.0)
    factors: tuple[tuple[str, tuple[float, ...]], ...] = ()
    notes: tuple[str, ...] = ()


def read_rope(
    config: Mapping[str, Any],
    where: str,
    *,
    size: int,
    limit: int,
    table: Mapping[str, Any] | None = None,
) -> Rope:
    """Read the rotary embedding of a model.

    Args:
        config: The model's `config.json`.
        where: What an error begins with.
        size: Rotated components of a head.
        limit: The model's context.
        table: The rope parameters, where they are not the configuration's own.

    Returns:
        The embedding.

    Raises:
        CheckpointError: llama.cpp has nothing like it, or a number is missing.
    """
    table = rope_table(config, where) if table is None else table
    kind = table.get("rope_type", table.get("type", "default"))
    base = table.get("rope_theta", config.get("rope_theta"))
    base = positive_number(10000.0 if base is None else base, "rope_theta", where)
    if kind == "default":
        return Rope(base)
    if kind == "dynamic":
        return Rope(
            base,
            notes=(f"rope type dynamic is not stretched beyond the context of {limit} tokens",),
        )
    factor = table.get("factor")
    if kind == "linear":
        return Rope(base, "linear", positive_number(factor, "rope factor", where))
    original = config.get("original_max_position_embeddings")
    original = table.get("original_max_position_embeddings") if original is None else original
    original = positive_integer(
        {"original_max_position_embeddings": limit if original is None else original},
        "original_max_position_embeddings",
        where,
    )
    if kind == "yarn":
        return _yarn(base, table, original, where)
    if kind == "llama3":
        return Rope(base, factors=(("rope_freqs", _llama3(base, table, original, size, where)),))
    if kind in ("longrope", "su"):
        return _longrope(base, table, original, limit, size, where)
    raise CheckpointError(
        f"{where}: config.json: rope type {printable(kind, 40)!r} cannot be written; default, "
        "linear, yarn, llama3, longrope and dynamic can"
    )


def _yarn(base: float, table: Mapping[str, Any], original: int, where: str) -> Rope:
    factor = positive_number(table.get("factor"), "rope factor", where)
    for key in _YARN_OTHERS:
        usual = {"truncate": True, "attention_factor": 0.1 * math.log(max(factor, 1.0)) + 1.0}
        value = table.get(key)
        if value is not None and value != usual.get(key):
            raise CheckpointError(
                f"{where}: config.json: {key} {printable(value, 40)} of rope type yarn cannot be "
                "written; llama.cpp computes its own"
            )
    if factor < 1.0:
        raise CheckpointError(f"{where}: config.json: yarn with factor {factor} cannot be written")
    fast, slow = (
        default if table.get(key) is None else positive_number(table[key], key, where)
        for key, default in _YARN_DEFAULTS.items()
    )
    return Rope(base, "yarn", factor, original, betas=(fast, slow))


def _llama3(
    base: float, table: Mapping[str, Any], original: int, size: int, where: str
) -> tuple[float, ...]:
    """What each frequency is divided by, exact but for one rounding to float32."""
    factor, low, high = (
        positive_number(table.get(key), f"rope {key}", where)
        for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    if low >= high:
        raise CheckpointError(
            f"{where}: config.json: rope low_freq_factor {low} is not below high_freq_factor {high}"
        )
    factors = []
    with localcontext() as context:
        context.prec = _DIGITS
        longest, shortest = Decimal(original) / Decimal(low), Decimal(original) / Decimal(high)
        for place in range(0, size, 2):
            wavelength = 2 * _PI * Decimal(base) ** (Decimal(place) / size)
            if wavelength < shortest:
                factors.append(Decimal(1))
            elif wavelength > longest:
                factors.append(Decimal(factor))
            else:
                smooth = (original / wavelength - Decimal(low)) / (Decimal(high) - Decimal(low))
                factors.append(1 / ((1 - smooth) / Decimal(factor) + smooth))
    return tuple(float(np.float32(float(each))) for each in factors)


def _longrope(
    base: float, table: Mapping[str, Any], original: int, limit: int, size: int, where: str
) -> Rope:
    lists = []
    for name in ("long", "short"):
        listed = table.get(f"{name}_factor")
        if not isinstance(listed, list) or len(listed) != size // 2:
            raise CheckpointError(
                f"{where}: config.json: rope {name}_factor must be a list of {size // 2} numbers"
            )
        numbers = [positive_number(each, f"rope {name}_factor", where) for each in listed]
        lists.append((f"rope_factors_{name}", tuple(float(np.float32(n)) for n in numbers)))
    stretch = table.get("factor")
    stretch = limit / original if stretch is None else positive_number(stretch, "factor", where)
    attention = table.get("attention_factor")
    if attention is None and original < 2:
        raise CheckpointError(f"{where}: config.json: longrope of an original context of 1")
    if attention is None:
        with localcontext() as context:
            context.prec = _DIGITS
            grown = 1 + Decimal(max(stretch, 1.0)).ln() / Decimal(original).ln()
            attention = float(grown.sqrt())
    attention = positive_number(attention, "rope attention_factor", where)
    note = (
        f"rope type longrope: llama.cpp takes the long factors once its context is set to more "
        f"than {original} tokens, transformers once a text is longer"
    )
    return Rope(base, "longrope", 1.0, original, attention, factors=tuple(lists), notes=(note,))
