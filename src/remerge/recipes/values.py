"""Ranges of numbers and forms of names, each stated once, for every table of parameters."""

from __future__ import annotations

import math
import re
import sys
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from remerge.schema import shown

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


def number(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    low_open: bool = False,
    whole: bool = False,
) -> BeforeValidator:
    """Accept a finite number within bounds.

    Args:
        low: The least value.
        high: The largest value.
        low_open: Whether `low` itself is out of range.
        whole: Whether only integers are accepted.

    Returns:
        A validator for `Annotated`, whose message states the range.
    """
    kinds = int if whole else (int, float)
    bounds = f"{'(' if low_open else '['}{low}, {high}]"
    expected = f"{'a whole number' if whole else 'a number'} in {bounds}"

    def check(value: Any) -> Any:
        # A YAML integer has any number of digits; one beyond a float is no value here.
        fits = (
            isinstance(value, kinds)
            and not isinstance(value, bool)
            and abs(value) <= sys.float_info.max
        )
        if not fits or not (low < value if low_open else low <= value) or value > high:
            raise PydanticCustomError("number", expected)
        return value

    return BeforeValidator(check)


def plain_name(name: str) -> str:
    """Return `name` if it can be part of a path, a parameter and a stage; else ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"name {shown(name)} must be 1 to 64 letters, digits, '_', '-' "
            "and must not begin with '-'"
        )
    return name


Share = Annotated[float, number(0, 1)]
Bytes = Annotated[int, number(1, whole=True)]
Name = Annotated[str, AfterValidator(plain_name)]
Dtype = Literal["float16", "bfloat16", "float32"]
Vocabulary = Literal["truncate", "map", "rows"]
