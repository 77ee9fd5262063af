"""One row of the table of formats; each container has its own rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from remerge.errors import RecipeError

Container = Literal["gguf", "ggml", "gptq"]
Class = Literal["exact", "stable", "same-platform"]
#: The rooms that write formats; the name of a format begins with its container's.
CONTAINERS: tuple[Container, ...] = ("gguf", "ggml", "gptq")


@dataclass(frozen=True)
class Format:
    """`runtime` is the program in which the file is known to run.

    `class_` says when two machines make the same bytes:

    * ``exact``: always, by the definition of the arithmetic;
    * ``stable``: the bytes are discrete results of a float64 computation whose noise is ten orders
      below what could move one (see `docs/decisions/0006-gptq-in-float64.md`);
    * ``same-platform``: on one machine with one set of libraries.
    """

    name: str
    container: Container
    class_: Class
    runtime: str
    description: str


def one_of(formats: Mapping[str, Format], name: str) -> Format:
    """The format `name` of a table; RecipeError, which names the known ones, if it has none."""
    if name not in formats:
        raise RecipeError(f"{name!r} is not a format; choose from {', '.join(formats)}")
    return formats[name]
