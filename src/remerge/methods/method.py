"""What a merge method states about itself, and how one tensor reaches it.

>>> method = METHODS["slerp"]
>>> values = method.resolve({"t": 0.3}, models=1)
>>> for chunk in method.compute(inputs, values): ...

Recipes, the import of mergekit files, the command line, the model card and the report all read the
statement of needs, ranges and defaults that stands here. The formulas stand in `docs/contract.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np

from remerge.errors import RecipeError, printable
from remerge.kernels.blocks import RawTensor
from remerge.shards.units import Chunks as Chunks

Kind = Literal["float", "int", "bool", "choice"]
Scope = Literal["merge", "model"]
Base = Literal["required", "optional", "none"]
#: Resolved parameters by name; one of scope `model` is a tuple in the order of the models.
Values = Mapping[str, Any]
#: Stands for a default where there is none: every model must give the value.
REQUIRED = "required"
#: Parameters are rounded to float32 where they meet weights.
MAX_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method.

    default      the value that stands where a recipe gives none; None: not used when not given
    required     a recipe must give it
    low, high    the range of a number, both ends included but for those in `without`
    choices      the words of a choice
    scope        `merge`: one value; `model`: one for each model without the base
    per_tensor   may change along the model: lists as gradients, and filters
    mergekit     the value that mergekit works with, where that is not `default`; REQUIRED where it
                 wants one
    """

    name: str
    kind: Kind
    description: str
    default: Any = None
    required: bool = False
    low: float = -MAX_FLOAT32
    high: float = MAX_FLOAT32
    without: tuple[float, ...] = ()
    choices: tuple[str, ...] = ()
    scope: Scope = "merge"
    per_tensor: bool = True
    mergekit: Any = None

    @property
    def range(self) -> str:
        """The values that are allowed, in words."""
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        if self.kind == "bool":
            return "true or false"
        noun = "an integer" if self.kind == "int" else "a number"
        if (self.low, self.high) == (-MAX_FLOAT32, MAX_FLOAT32):
            return f"{noun} that float32 can hold"
        if self.high == MAX_FLOAT32:
            sign = ">" if self.low in self.without else "≥"
            return f"{noun} {sign} {self.low:g}"
        left = "(" if self.low in self.without else "["
        right = ")" if self.high in self.without else "]"
        return f"{noun} in {left}{self.low:g}, {self.high:g}{right}"

    def check(self, value: Any, where: str) -> Any:
        """`value` in the parameter's own type.

        Raises:
            RecipeError: it is of another type or out of range; `where` says whose it is.
        """
        checked = self._checked(value)
        if checked is None:
            raise RecipeError(f"{where}: {self.name} is {printable(value, 60)}; it is {self.range}")
        return checked

    def _checked(self, value: Any) -> Any:
        """The value in the parameter's own type; None if it is none."""
        if self.kind == "bool":
            # mergekit's users write 1.0 and 0 for switches.
            return bool(value) if isinstance(value, bool) or value in (0, 1) else None
        if self.kind == "choice":
            return value if value in self.choices else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        # Compared before it is a float: an int may be too large for one.
        if not self.low <= value <= self.high or value in self.without:
            return None
        if self.kind == "int":
            return int(value) if value == int(value) else None
        return float(value)


@dataclass(frozen=True)
class Input:
    """One model's tensor: what the model is called, its bytes, and where they lie."""

    label: str
    raw: RawTensor
    path: str = ""


@dataclass(frozen=True)
class Inputs:
    """All that a method sees of one output tensor; every input has `shape`.

    name    of the output tensor
    dtype   of the output: `F16`, `BF16` or `F32`
    base    None for methods without one
    block   elements a step of a kernel, a multiple of 8; does not change the result
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    base: Input | None
    models: tuple[Input, ...]
    block: int = 512

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """Elements along the last axis; the whole tensor where there are fewer than two axes."""
        return self.shape[-1] if len(self.shape) > 1 else self.size

    @property
    def everything(self) -> tuple[Input, ...]:
        """The base, where there is one, and the models."""
        return (*(() if self.base is None else (self.base,)), *self.models)


@dataclass(frozen=True)
class Method:
    """A merge method.

    name        as recipes and mergekit call it
    title       as cards and reports call it
    source      where it was published
    base        whether it has a base model
    models      least and largest number of models besides the base; None: no limit
    compute     merges one tensor
    examine     RecipeError for values that are right alone and wrong together
    """

    name: str
    title: str
    source: str
    base: Base
    models: tuple[int, int | None]
    parameters: tuple[Parameter, ...]
    compute: Callable[[Inputs, Values], Chunks]
    examine: Callable[[Values, str], None] = lambda values, where: None

    def parameter(self, name: str, where: str) -> Parameter:
        """The parameter of that name; RecipeError with the nearest name for one it has not."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        known = [parameter.name for parameter in self.parameters]
        near = get_close_matches(str(name), known, 1, 0.6)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none'}"
        raise RecipeError(f"{where}: {self.name} has no parameter {printable(name, 60)!r}; {hint}")

    def require_inputs(self, base: bool, models: int, where: str) -> None:
        """RecipeError unless the method can merge that many models, with or without a base."""
        if base and self.base == "none":
            raise RecipeError(f"{where}: {self.name} has no base model; list it among the models")
        if not base and self.base == "required":
            raise RecipeError(f"{where}: {self.name} needs a base model")
        least, most = self.models
        if models < least or (most is not None and models > most):
            besides = " besides the base" if self.base != "none" else ""
            number = f"{least}" if least == most else f"at least {least}"
            if most is not None and least != most:
                number = f"{least} to {most}"
            noun = "model" if number.split()[-1] == "1" else "models"
            raise RecipeError(f"{where}: {self.name} merges {number} {noun}{besides}, not {models}")

    def resolve(self, given: Mapping[str, Any], models: int, where: str = "merge") -> Values:
        """All parameters of one tensor: what is `given`, checked, and defaults for the rest.

        Args:
            given: Scalars by name. For a parameter of scope `model` a sequence with an entry for
                each model, None for those that give none, or one scalar for all of them.
            models: Number of models besides the base.
            where: What error messages call the merge.

        Raises:
            RecipeError: An unknown name, a value out of range, a required one left out.
        """
        for name in given:
            self.parameter(name, where)
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            value = given.get(parameter.name)
            if parameter.scope == "model":
                each: Sequence[Any] = [value] * models
                if isinstance(value, Sequence) and not isinstance(value, str):
                    each = value
                if len(each) != models:
                    raise RecipeError(
                        f"{where}: {parameter.name} has {len(each)} values for {models} models"
                    )
                values[parameter.name] = tuple(_filled(parameter, v, where) for v in each)
            else:
                values[parameter.name] = _filled(parameter, value, where)
        self.examine(values, where)
        return values


def _filled(parameter: Parameter, value: Any, where: str) -> Any:
    if value is not None:
        return parameter.check(value, where)
    if parameter.required:
        raise RecipeError(f"{where}: {parameter.name} is missing; it is {parameter.range}")
    return parameter.default


#: Parameters that several methods share.
WEIGHT = Parameter(
    "weight", "float", "factor of the model", default=1.0, scope="model", mergekit=REQUIRED
)
FLOOR = Parameter(
    "floor",
    "float",
    "least divisor; 0 as published, 1e-6 as in mergekit",
    default=0.0,
    low=0.0,
    high=1.0,
    mergekit=1e-6,
)
