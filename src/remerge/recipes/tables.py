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
#: Places for folders in an item of `collect`.
COLLECTED = 24
#: What an unused place points at, since DVC wants a path for each dependency.
UNUSED = "conf/recipe/unused"
PARTS = ("p1", "p2")
FINAL = "merged/final"
#: Where outputs of a kind lie.
MODELS = {"model": "models", "adapter": "adapters", "dataset": "datasets"}
_MADE = re.compile(
    r"(models|adapters|datasets|baked|merged|quantized|scores)/[A-Za-z0-9_][A-Za-z0-9_-]*"
    r"|collected/[0-9]+\.json"
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
    """An item of quantize_eval, with all that it depends on.

    Attributes:
        section: The digest of the parameters that it reads: `digests.eval`, or of a container.
        reads: The folder of its model.
        data: The folder of its evaluation data.
        own: The folder of code of its kind or container.
        core: More code.
        also: More code; for what is calibrated, the text.
        out: The folder that it makes.
    """

    section: Literal["digests.eval", "digests.gguf", "digests.ggml", "digests.gptq"]
    reads: Made
    data: str
    own: str
    core: str
    also: str
    out: Made

    @property
    def kind(self) -> Literal["quantize", "evaluate"]:
        """Whether it makes a format or scores a model."""
        return "evaluate" if self.section == "digests.eval" else "quantize"

    @property
    def container(self) -> str:
        """The container of a format."""
        return self.section.removeprefix("digests.")


class Collection(Table):
    """An item of collect: the one before it, folders of formats and scores, the file it makes."""

    after: Made
    folders: Annotated[dict[str, Made], Field(min_length=COLLECTED, max_length=COLLECTED)]
    out: Made


class Places(Table):
    """Folders that the merges read: the base, and the models of each part in order."""

    base: Made
    p1: Annotated[dict[str, Made], Field(min_length=PLACES, max_length=PLACES)]
    p2: Annotated[dict[str, Made], Field(min_length=PLACES, max_length=PLACES)]

    def models(self, part: str) -> list[str]:
        """Return the folders of a part's models, in order."""
        return [path for path in getattr(self, part).values() if path != UNUSED]


class ReportPlaces(Table):
    """What the report reads: evaluation data, and the last file of collect."""

    data: str
    collected: Made


class Tables(Table):
    """Everything that is derived from a recipe.

    Attributes:
        pins: A digest of the pin of each source that is used; None while it is not pinned.
        fetch: Where each of these sources lies.
        bake_loras: Its bakes.
        places: What the parts are merged of.
        quantize_eval: Formats and scores.
        digests: SHA-256 of what items of each kind or container read of the parameters.
        description: What GGUF files say of the model: license, base models, tags.
        collect: Formats and scores, many at a time.
        report: What is collected.
    """

    pins: dict[Name, str | None]
    fetch: dict[Name, Made]
    bake_loras: dict[Name, BakeItem]
    places: Places
    quantize_eval: dict[Name, Item]
    digests: dict[str, str]
    description: dict[str, str | list[str]]
    collect: dict[Name, Collection]
    report: ReportPlaces


def read_tables(params: Mapping[str, Any]) -> Tables:
    """Read the derived tables of parameters; RecipeError where they are missing or unsound."""
    missing = [name for name in Tables.model_fields if name not in params]
    if missing:
        raise RecipeError(f"{missing[0]} is missing; compose the parameters (`make params`)")
    return read_table(Tables, {name: params[name] for name in Tables.model_fields}, "params")
