"""quantize_eval, kind evaluate: the scores of one model on the suite."""

from __future__ import annotations

from pathlib import Path

from remerge.evaluate.scoring import score
from remerge.evaluate.suite import suite_from_params
from remerge.recipes.tables import Item
from remerge.stages.params import Params
from remerge.stages.running import SCRATCH


def make(name: str, entry: Item, params: Params) -> None:
    """Score the model in `entry.reads` into `entry.out`."""
    score(
        Path(entry.reads),
        suite_from_params(params.whole["eval"]),
        Path(entry.out),
        scratch=SCRATCH / "evaluate",
        whole_folder=SCRATCH / "scores",
    )
