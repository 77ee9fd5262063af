"""quantize_eval, kind evaluate: the scores of one model on the suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remerge.evaluate.scoring import score
from remerge.evaluate.suite import suite_from_params
from remerge.stages.params import UNUSED
from remerge.stages.running import SCRATCH
from remerge.tensors.json_files import write_json


def make(name: str, entry: dict[str, Any], params: dict[str, Any]) -> None:
    """Score the model in `entry["reads"]` into `entry["out"]`.

    A place whose donor an experiment has dropped holds nothing to score, and no score comes out.
    """
    out = Path(entry["out"])
    if entry["reads"] == UNUSED:
        write_json(out / "scores.json", {})
        return
    score(
        Path(entry["reads"]),
        suite_from_params(params["eval"]),
        out,
        scratch=SCRATCH / "evaluate",
        whole_folder=SCRATCH / "scores",
    )
