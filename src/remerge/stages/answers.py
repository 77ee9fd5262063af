"""quantize_eval, kind answers: what one model answered when it was scored, for the report."""

from __future__ import annotations

from pathlib import Path

from remerge.evaluate.answers import write_answers
from remerge.evaluate.suite import suite_from_params
from remerge.recipes.tables import Item
from remerge.stages.params import Params
from remerge.stages.running import SCRATCH


def make(name: str, entry: Item, params: Params) -> None:
    """Write the answers of the model in `entry.reads` to `entry.out`."""
    write_answers(
        Path(entry.reads),
        suite_from_params(params.whole["eval"]),
        Path(entry.out),
        SCRATCH / "evaluate",
    )
