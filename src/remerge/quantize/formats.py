"""What a model can be quantized to, by name.

>>> FORMATS["gguf_q4_k_m"].container
'gguf'

`class_` says when two machines make the same bytes (see `docs/decisions/gptq.md` for GPTQ):

* ``exact``: always, by the definition of the arithmetic;
* ``stable``: the bytes are discrete results of a float64 computation whose noise is ten orders
  below what could move one;
* ``same-platform``: on one machine with one set of libraries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from remerge.errors import RecipeError

Class = Literal["exact", "stable", "same-platform"]


@dataclass(frozen=True)
class Format:
    """One row of the table: `runtime` is the program in which the file is known to run."""

    name: str
    container: Literal["gguf", "ggml", "gptq"]
    class_: Class
    runtime: str
    description: str
    default: bool


def _gguf(name: str, description: str, *, default: bool = True) -> Format:
    return Format(f"gguf_{name}", "gguf", "exact", "llama.cpp", description, default)


def _ggml(name: str, description: str) -> Format:
    return Format(f"ggml_{name}", "ggml", "exact", "ctransformers", description, default=True)


def _gptq(name: str, description: str, *, default: bool) -> Format:
    return Format(f"gptq_{name}", "gptq", "stable", "transformers", description, default)


_ALL = (
    _gguf("f16", "float16, what every other GGUF is compared with"),
    _gguf("bf16", "bfloat16: the range of float32, three bits less precision than float16"),
    _gguf("q8_0", "8 bits, blocks of 32: no loss that a benchmark shows"),
    _gguf("q4_0", "4 bits, blocks of 32: the fastest on small machines"),
    _gguf("q5_0", "5 bits, blocks of 32"),
    _gguf("q4_k_m", "4 bits, blocks of 256, more for the sensitive tensors: what most people take"),
    _gguf("q5_k_m", "5 bits, blocks of 256, more for the sensitive tensors"),
    _gguf("q6_k", "6 bits, blocks of 256"),
    _ggml("f16", "legacy ggjt v3, float16: for programs of 2023"),
    _ggml("q4_0", "legacy ggjt v3, 4 bits"),
    _ggml("q5_1", "legacy ggjt v3, 5 bits with an offset"),
    _ggml("q8_0", "legacy ggjt v3, 8 bits"),
    _gptq(
        "4bit_128g", "4 bits, groups of 128, calibrated, for transformers and vLLM", default=True
    ),
    _gptq("4bit_128g_actorder", "the same, the largest inputs first", default=False),
)

#: Every format by its name, in the order in which tables show them.
FORMATS: dict[str, Format] = {entry.name: entry for entry in _ALL}


def choose(names: str | Iterable[str]) -> tuple[Format, ...]:
    """The formats meant by ``default``, ``all``, or a list of names; RecipeError for others."""
    if names == "default":
        return tuple(entry for entry in _ALL if entry.default)
    if names == "all":
        return _ALL
    listed = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in listed if name not in FORMATS]
    if unknown:
        raise RecipeError(
            f"quantize.formats: {unknown[0]!r} is not a format; "
            f"choose default, all, or from {', '.join(FORMATS)}"
        )
    if len(set(listed)) != len(listed):
        raise RecipeError("quantize.formats: a format is named twice")
    return tuple(FORMATS[name] for name in listed)


def of_container(name: str, container: str) -> Format:
    """The format `name`, which must belong to `container`; RecipeError otherwise."""
    (entry,) = choose([name])
    if entry.container != container:
        raise RecipeError(f"{name} is a {entry.container} format, not {container}")
    return entry
