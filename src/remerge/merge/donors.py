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
from dataclasses import dataclass
from pathlib import Path

from remerge.architectures.alignment import as_head_of
from remerge.errors import RecipeError
from remerge.methods.ties import Donor
from remerge.tensors.checkpoint import Checkpoint, config_of, open_checkpoint
from remerge.tensors.compatibility import Note
from remerge.vocabulary.mapping import different_tokens, map_vocabulary, require_same_tokens


@contextmanager
def mapping_folder(scratch: Path | str) -> Iterator[Path]:
    """A folder in `scratch` for mapped tensors: this run's own, removed when its merge is done."""
    folder = Path(scratch) / f"vocabulary-{uuid.uuid4().hex}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Ruled:
    """A model whose rows of tokens follow a rule: what was done, and which row went where."""

    model: Checkpoint
    notes: tuple[Note, ...] = ()
    rows: str = ""


def under_rule(
    model: Checkpoint, base: Checkpoint, rule: str | None, mapped: Path | None = None
) -> Ruled:
    """Check a model's tokens against the base's, or bring them to it.

    Args:
        model: A donor.
        base: The model whose tokens count.
        rule: None: the rows must be the base's; `truncate`: rows beyond them are left out; `map`:
            each row goes where the base has its token; `rows`: rows are taken by their number,
            whatever tokens they are of; `one`: all models get one vocabulary later.
        mapped: A `mapping_folder`, which `map` needs.

    Raises:
        CheckpointError: The tokens need another rule.
    """
    if rule == "map":
        if mapped is None:
            raise RecipeError(f"{model.label}: vocabulary map needs a folder for mapped tensors")
        full_base = as_head_of(base, config_of(base.folder), model)
        model = as_head_of(model, config_of(model.folder), base)
        rows = map_vocabulary(model, full_base, mapped)
        return Ruled(rows.model, rows.notes, rows.digest)
    if rule == "rows":
        renamed = different_tokens(model, base)
        text = f"rows taken by number: {renamed} tokens of {base.label} are others there"
        return Ruled(model, (Note(model.label, "tokenizer", text),) if renamed else ())
    if rule != "one":
        require_same_tokens(model, base)
    return Ruled(model)


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
    """The donor in `folder`, its tokens under the rule `vocabulary`; see `under_rule`.

    CheckpointError for a folder that is no model, or whose tokens need another rule.
    """
    ruled = under_rule(open_checkpoint(folder, label), base, vocabulary, mapped)
    return Donor(ruled.model, density, weight, vocabulary, ruled.notes, ruled.rows)
