"""One row of the table of formats: all that is known of a format; each container has its own rows.

What else names formats (options in `conf/`, the table in the docs) is written from the rows by
`make formats`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from remerge.errors import RecipeError

Container = Literal["gguf", "ggml", "gptq"]
Class = Literal["exact", "stable", "same-platform"]
#: The folders that write formats; the name of a format begins with its container's.
CONTAINERS: tuple[Container, ...] = ("gguf", "ggml", "gptq")

#: Which of L layers a rule of a mixture is for: those before a place; the first and last eighth and
#: every third between (``spread``); all of a model with at least four query heads a key head
#: (``grouped``).
Layers = Literal["all", "first 2", "first 4", "first L/8", "first L/16", "spread", "grouped"]


@dataclass(frozen=True)
class Sensitive:
    """The type that some tensors get instead of the ordinary one: `parts` are their names.

    `ffn_down` stands for those of all experts as well, `attn_v` for a fused projection with values.

    >>> Sensitive("Q6_K", ("attn_v", "ffn_down"), "spread")
    """

    type: str
    parts: tuple[str, ...]
    layers: Layers = "all"


@dataclass(frozen=True)
class Format:
    """`runtime` is the program in which the file is known to run.

    `type` is the number type of an ordinary matrix, and the first rule of `sensitive` that is for a
    tensor gives another. `file_type` is llama.cpp's number of the whole mixture, 0 where a
    container has none. `group` is how many weights of a row share a scale that is fitted to a text,
    0 for the whole row; `by_activation` fits the largest inputs first.

    `class_` says when two machines make the same bytes:

    * ``exact``: always, by the definition of the arithmetic;
    * ``stable``: the bytes are discrete results of a float64 computation whose noise is ten orders
      below what could move one (see `docs/decisions/0006-gptq-in-float64.md`);
    * ``same-platform``: on one machine with one set of libraries.

    `default` formats are made by the pipeline unless it is asked for others.
    """

    name: str
    container: Container
    type: str
    sensitive: tuple[Sensitive, ...]
    file_type: int
    runtime: str
    class_: Class
    description: str
    default: bool = False
    group: int = 0
    by_activation: bool = False


def exact_format(
    container: Container,
    runtime: str,
    name: str,
    kind: str,
    file_type: int,
    description: str,
    *sensitive: Sensitive,
    default: bool = False,
) -> Format:
    """Return the row of a format of the exact class; `name` is without its container's."""
    return Format(
        f"{container}_{name}",
        container,
        kind,
        sensitive,
        file_type,
        runtime,
        "exact",
        description,
        default,
    )


def one_of(formats: Mapping[str, Format], name: str) -> Format:
    """The format `name` of a table; RecipeError, which names the known ones, if it has none."""
    if name not in formats:
        raise RecipeError(f"{name!r} is not a format; choose from {', '.join(formats)}")
    return formats[name]
