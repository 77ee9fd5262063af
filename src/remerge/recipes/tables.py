"""The tables of `params.yaml` that stages read, and where each output of a recipe lies.

`derive` makes them when the parameters are composed. Here is their form, and the check of it:
`params.yaml` may have been edited since.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from remerge.errors import RecipeError
from remerge.recipes.values import Name
from remerge.schema import Table, read_table, shown

#: Places for the models of a part in this project's `dvc.yaml`.
PLACES = 8
#: What an unused place points at, since DVC wants a path for each dependency.
UNUSED = "conf/recipe/unused"
PARTS = ("p1", "p2")
FINAL = "merged/final"
#: Where outputs of a kind lie.
MODELS = {"model": "models", "adapter": "adapters", "dataset": "datasets"}
_MADE = re.compile(
    r"(models|adapters|datasets|baked|merged|quantized|scores)/[A-Za-z0-9_][A-Za-z0-9_-]*"
)


def _made(path: str) -> str:
    if path != UNUSED and not _MADE.fullmatch(path):
        raise ValueError(f"{shown(path)} is no output; expected a path such as models/NAME")
    return path


Made = Annotated[str, AfterValidator(_made)]


class BakeItem(Table):
    """An item of bake_loras: folders."""

    model: Made
    adapter: Made
    out: Made


class Item(Table):
    """An item of quantize_eval.

    Attributes:
        kind: The module of the stage that makes it.
        section: The section of the parameters that it reads.
        reads: The folder of its model.
        data: The folder of its evaluation data.
        text: The text that it is calibrated on, or `data` again.
        own: The folder of code that it runs, as are `core` and `blocks`.
        out: The folder that it makes.
        description: What a format's file says of the model: license, base models, tags.
    """

    kind: Literal["quantize", "evaluate"]
    section: Literal["eval", "quantize.gguf", "quantize.ggml", "quantize.gptq"]
    reads: Made
    data: str
    text: str
    own: str
    core: str
    blocks: str
    out: Made
    description: dict[str, str | list[str]] | None = None


class Places(Table):
    """Folders that the merges read: the base, and the models of each part in order."""

    base: Made
    p1: Annotated[dict[str, Made], Field(min_length=PLACES, max_length=PLACES)]
    p2: Annotated[dict[str, Made], Field(min_length=PLACES, max_length=PLACES)]

    def models(self, part: str) -> list[str]:
        """Return the folders of a part's models, in order."""
        return [path for path in getattr(self, part).values() if path != UNUSED]


class ReportPlaces(Table):
    """What the report collects, by place."""

    data: str
    scores: dict[str, Made]
    formats: dict[str, Made]
    quants: dict[str, Made]


class Tables(Table):
    """Everything that is derived from a recipe.

    Attributes:
        pins: A digest of the pin of each source that is used; None while it is not pinned.
        fetch: Where each of these sources lies.
        bake_loras: Its bakes.
        places: What the parts are merged of.
        quantize_eval: Formats and scores.
        report: What is collected.
    """

    pins: dict[Name, str | None]
    fetch: dict[Name, Made]
    bake_loras: dict[Name, BakeItem]
    places: Places
    quantize_eval: dict[Name, Item]
    report: ReportPlaces


def read_tables(params: Mapping[str, Any]) -> Tables:
    """Read the derived tables of parameters; RecipeError where they are missing or unsound."""
    missing = [name for name in Tables.model_fields if name not in params]
    if missing:
        raise RecipeError(f"{missing[0]} is missing; compose the parameters (`make params`)")
    return read_table(Tables, {name: params[name] for name in Tables.model_fields}, "params")
