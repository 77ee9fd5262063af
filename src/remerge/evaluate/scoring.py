"""Score models on a suite: load, run task by task, keep what is finished, write the results.

The heavy imports (torch, transformers, lm-eval: some seconds) happen in the first call, and once
for all models of `score_many`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remerge.errors import RecipeError
from remerge.evaluate.answers import ANSWERS, first_answers
from remerge.evaluate.results import TRANSFORMERS, suite_as_json, summarise
from remerge.evaluate.suite import Suite, with_settings
from remerge.files import write_text
from remerge.progress import announce
from remerge.runtimes.loadable import require_runnable
from remerge.runtimes.offline import offline
from remerge.tensors.json_files import write_json

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

SCORES = "scores.json"


@dataclass(frozen=True)
class Model:
    """A model to score.

    folder: holds safetensors or a quant, or is the file of the quant itself.
    out_folder: gets the scores.
    """

    name: str
    folder: Path
    out_folder: Path


def score(
    model_folder: Path | str,
    suite: Suite,
    out_folder: Path | str,
    *,
    batch_size: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    limit: int | None = None,
    scratch: Path | str | None = None,
    whole_folder: Path | str | None = None,
) -> dict[str, Any]:
    """Score one model under the name of its `out_folder`; see `score_many` for all the rest."""
    model = Model(Path(out_folder).name, Path(model_folder), Path(out_folder))
    results = score_many(
        [model],
        suite,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        limit=limit,
        scratch=scratch,
        whole_folder=whole_folder,
    )
    return results[model.name]


@offline()
def score_many(
    models: Sequence[Model],
    suite: Suite,
    *,
    batch_size: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    limit: int | None = None,
    scratch: Path | str | None = None,
    whole_folder: Path | str | None = None,
) -> dict[str, dict[str, Any]]:
    """Score several models in one process, one after the other.

    For each, `out_folder/scores.json` gets the rounded scores (returned as well, by name of the
    model), `out_folder/answers.json` what was answered to the first questions of each task, and
    `<whole_folder>/<name>/` the whole ones: `results.json` with unrounded metrics and versions,
    `<task>.jsonl` with a line for each item. `whole_folder` defaults to the folder `whole` beside
    `out_folder`; what lies in it differs in the last digits between machines, so it is nothing to
    lock.

    batch_size, device, dtype, limit: in place of the suite's own.
    scratch: keeps finished tasks and the answers of the running one, keyed by a digest of the
        model, the task, its data and all parameters, so that an interrupted run goes on where it
        stopped. None keeps nothing and saves reading the weights once more for their digest.

    Raises RecipeError, SourceError, CheckpointError, NumericError or ToolError.
    """
    suite = with_settings(suite, batch_size=batch_size, device=device, dtype=dtype, limit=limit)
    require_models(models)
    with announce("loading torch, transformers and lm-eval"):
        from remerge.evaluate.run import Run

        tasks = _all_tasks(suite)
    results = {}
    for model in models:
        run = Run(model.name, model.folder, suite, Path(scratch) if scratch else None)
        records = run.records(tasks)
        result = summarise(
            suite,
            {task: record["value"] for task, record in records.items()},
            {task: record["items"] for task, record in records.items()},
            run.quant.runtime if run.quant else TRANSFORMERS,
        )
        result["notes"] += [record["note"] for record in records.values() if record.get("note")]
        whole = Path(whole_folder) if whole_folder else model.out_folder.parent / "whole"
        _write_whole(whole / model.name, suite, records, run.versions)
        write_json(model.out_folder / ANSWERS, first_answers(suite, records))
        write_json(model.out_folder / SCORES, result)
        results[model.name] = result
    return results


def require_models(models: Sequence[Model]) -> None:
    """RecipeError for two of one name, CheckpointError for what no runtime should be given."""
    if len({model.name for model in models}) != len(models):
        raise RecipeError("two models to score have the same name")
    for model in models:
        require_runnable(model.folder)


def _all_tasks(suite: Suite) -> dict[str, tuple[str, ConfigurableTask]]:
    """Name of a task to (the metric and filter that count, the task)."""
    from remerge.evaluate.tasks import build_tasks

    return {
        name: (f"{benchmark.metric},{benchmark.answer_filter}", task)
        for benchmark in suite.benchmarks
        for name, task in build_tasks(benchmark).items()
    }


def _write_whole(
    folder: Path,
    suite: Suite,
    records: Mapping[str, Mapping[str, Any]],
    versions: Mapping[str, str],
) -> None:
    write_json(
        folder / "results.json",
        {
            "suite": suite_as_json(suite),
            "versions": {**versions, "python": sys.version.split()[0]},
            "tasks": {
                name: {key: record[key] for key in ("metrics", "items")}
                for name, record in records.items()
            },
        },
    )
    for name, record in records.items():
        lines = (json.dumps(s, sort_keys=True, ensure_ascii=False) for s in record["samples"])
        write_text(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
