"""What each merge method takes: the one place where a recipe learns of methods.

A method is a table for its node of a recipe, a table for each of its models, and a table of
defaults (the section of the parameters that is named after it). A value that a node leaves out is
the section's; a value that a model leaves out is its node's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from remerge.recipes.values import Density, Factor, Share, Vocabulary, number
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
            moves each row to where the base has its token, `rows` takes rows by number, whatever
            tokens they are of.
    """

    model: str | None = None
    vocabulary: Vocabulary | None = None


class TokenRow(Table):
    """The row of a token in models that lack it.

    Attributes:
        source: `zero`, `base`, or a model of the node.
        token: The text or number of another token of that model; None: the token itself.
        force: Also in models that have the token.
    """

    source: str
    token: str | Annotated[int, number(0, whole=True)] | None = None
    force: bool = False


class Tokenizer(Table):
    """One vocabulary for all models of a node.

    Attributes:
        source: `base`, `union` (the base's tokens and after them those of the others), or a model
            of the node.
        tokens: Rules for single tokens, by text.
        pad_to_multiple_of: The number of rows is rounded up to a multiple of it.
    """

    source: str = "union"
    tokens: dict[str, TokenRow] = Field(default={})
    pad_to_multiple_of: Annotated[int, number(1, 1 << 20, whole=True)] | None = None


class Merge(Table):
    """A node of a recipe: some models, merged by one method.

    Attributes:
        method: The name of the method.
        models: The models by label, in order.
        base: The model that the method measures the others against; None: the recipe's.
        tokenizer: One vocabulary for all models, or its source; None: the base's, and models have
            rules of their own.
        chat_template: `base`, a model of the node, or a known name; None: as the tokenizer has it.
    """

    method: str
    models: Annotated[Mapping[str, Use], Field(min_length=1)]
    base: str | None = None
    tokenizer: str | Tokenizer | None = None
    chat_template: str | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> Merge:
        if self.tokenizer is not None and any(use.vocabulary for use in self.models.values()):
            raise ValueError("tokenizer gives all models one vocabulary; leave out their own rules")
        return self


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
