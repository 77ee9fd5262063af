"""What each merge method takes: the one place where a recipe learns of methods.

A method is a table for its node of a recipe, a table for each of its models, and a table of
defaults (the section of the parameters that is named after it). A value that a node leaves out is
the section's; a value that a model leaves out is its node's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

from remerge.recipes.values import Density, Factor, Share, Vocabulary
from remerge.schema import Table

Elect = Literal["sum", "count"]
Along = Literal["tensors", "layers"]
Blend = Literal["all", "layers", "no_layers"]


class Use(Table):
    """A model where it is used.

    Attributes:
        model: A node, a source of the pins, a hub id `owner/name`, or a local path that begins
            with `.` or `/`. None: the label under which the model stands.
        vocabulary: None: its rows are the base's. `truncate` leaves out rows beyond them, `map`
            moves each row to where the base has its token.
    """

    model: str | None = None
    vocabulary: Vocabulary | None = None


class Merge(Table):
    """A node of a recipe: some models, merged by one method.

    Attributes:
        method: The name of the method.
        models: The models by label, in order.
        base: The model that the method measures the others against; None: the recipe's.
    """

    method: str
    models: Annotated[Mapping[str, Use], Field(min_length=1)]
    base: str | None = None


class TiesSection(Table):
    """Defaults of TIES: the parameters `ties`."""

    density: Density
    lam: Annotated[Factor, Field(alias="lambda")]
    normalize: bool
    elect: Elect


class TiesUse(Use):
    """A donor of a TIES merge; a negative weight negates its task vector."""

    density: Density | None = None
    weight: Factor = 1.0


class Ties(Merge):
    """TIES (Yadav et al. 2023, arXiv 2306.01708)."""

    method: Literal["ties"]
    models: Annotated[Mapping[str, TiesUse], Field(min_length=1)]
    density: Density | None = None
    lam: Annotated[Factor | None, Field(alias="lambda")] = None
    normalize: bool | None = None
    elect: Elect | None = None

    @field_validator("models")
    @classmethod
    def _some_weight(cls, models: Mapping[str, TiesUse]) -> Mapping[str, TiesUse]:
        if not any(use.weight for use in models.values()):
            raise ValueError("the weights of all donors are 0")
        return models


class GradientSection(Table):
    """Defaults of the gradient merge: the parameters `gradient`.

    Attributes:
        name: Which of the recipe's titles the result has.
    """

    name: str
    values: Annotated[list[Share], Field(min_length=2)]
    along: Along
    blend: Blend
    containing: str

    @field_validator("values", mode="before")
    @classmethod
    def _two_values(cls, values: object) -> object:
        if not isinstance(values, list) or len(values) < 2:
            raise ValueError("expected at least two numbers")
        return values


class Gradient(Merge):
    """Gradient merge of exactly two models (BlockMerge_Gradient)."""

    method: Literal["gradient"]
    values: Annotated[list[Share] | None, Field(min_length=2)] = None
    along: Along | None = None
    blend: Blend | None = None
    containing: str | None = None

    @field_validator("models")
    @classmethod
    def _two_models(cls, models: Mapping[str, Use]) -> Mapping[str, Use]:
        if len(models) != 2:
            raise ValueError(f"gradient merges two models, not {len(models)}")
        return models


#: Every method by its name.
METHODS: dict[str, type[Merge]] = {"ties": Ties, "gradient": Gradient}
