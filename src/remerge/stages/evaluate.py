"""quantize_eval, kind evaluate: the scores of one model on the suite.

Runtimes read what anybody may have made, a donor or a pinned GGUF: they run in a child process with
limits on memory and time, as for `remerge score`.
"""

from __future__ import annotations

from pathlib import Path

from remerge.evaluate.scoring import Model
from remerge.evaluate.suite import suite_from_params
from remerge.evaluate.watched import score_watched
from remerge.locks import sole_writer
from remerge.recipes.tables import Item
from remerge.stages.params import Params
from remerge.stages.running import SCRATCH
from remerge.watchdog import limits_for


def make(name: str, entry: Item, params: Params) -> None:
    """Score the model in `entry.reads` into `entry.out`."""
    model, out = Path(entry.reads), Path(entry.out)
    suite = params.whole["eval"]
    limits = limits_for(
        [model],
        memory=params.execution.score_memory,
        step_s=params.execution.score_timeout,
        batch=suite_from_params(suite).batch_size,
        options=("-S +execution.score_memory=BYTES", "-S +execution.score_timeout=SECONDS"),
    )
    with sole_writer(out, name):
        score_watched(
            [Model(out.name, model, out)],
            suite,
            limits,
            scratch=SCRATCH / "evaluate",
            whole_folder=SCRATCH / "scores",
        )
