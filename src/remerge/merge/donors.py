"""Opening a donor under the rule for its vocabulary, for commands and stages alike.

>>> with mapping_folder(scratch) as mapped:
...     donor = open_donor("models/hermes", base, density=0.5, vocabulary="map", mapped=mapped)
...     build(plan_ties(base, [donor], …), …)
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from remerge.architectures.alignment import as_head_of
from remerge.errors import RecipeError
from remerge.methods.ties import Donor
from remerge.tensors.checkpoint import Checkpoint, config_of, open_checkpoint
from remerge.vocabulary.mapping import map_vocabulary, require_same_tokens


@contextmanager
def mapping_folder(scratch: Path | str) -> Iterator[Path]:
    """A folder in `scratch` for mapped tensors: this run's own, removed when its merge is done."""
    folder = Path(scratch) / f"vocabulary-{uuid.uuid4().hex}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def open_donor(
    folder: Path | str,
    base: Checkpoint,
    *,
    density: float,
    weight: float = 1.0,
    vocabulary: str | None = None,
    label: str | None = None,
    mapped: Path | None = None,
) -> Donor:
    """The donor in `folder`, its tokens checked against the base's or mapped to them.

    vocabulary  None: the rows must be the base's; `truncate`: rows beyond them are left out; `map`:
                each row goes where the base has its token
    mapped      a `mapping_folder`, which `map` needs

    CheckpointError for a folder that is no model, or whose tokens need another rule.
    """
    model = open_checkpoint(folder, label)
    if vocabulary == "map":
        if mapped is None:
            raise RecipeError(f"{model.label}: vocabulary map needs a folder for mapped tensors")
        full_base = as_head_of(base, config_of(base.folder), model)
        model = as_head_of(model, config_of(model.folder), base)
        rows = map_vocabulary(model, full_base, mapped)
        return Donor(rows.model, density, weight, vocabulary, rows.notes, rows.digest)
    require_same_tokens(model, base)
    return Donor(model, density, weight, vocabulary)
