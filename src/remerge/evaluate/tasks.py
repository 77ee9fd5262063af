"""lm-eval's own task objects, fed from local files.

A public benchmark keeps everything that its definition in lm-eval says (prompt, few-shot sampler,
filters, metric); only the place its documents come from is replaced. A skill is a definition of
ours in the same terms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import pyarrow.parquet  # type: ignore[import-untyped]
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from remerge.errors import RecipeError, SourceError, ToolError
from remerge.evaluate.kept import FEW_SHOT_SEED, data_files
from remerge.evaluate.quiet import quiet
from remerge.evaluate.suite import Benchmark

_DEFINITIONS = Path(lm_eval.tasks.__file__).parent


def read_documents(path: Path) -> datasets.Dataset:
    """The documents of one file, parquet or JSON lines, in memory and in the order of the file.

    Raises SourceError where the file is missing, unreadable or empty.
    """
    if not path.is_file():
        raise SourceError(f"{path}: the data of this task is not there; run the fetch stage first")
    try:
        if path.suffix == ".parquet":
            documents = datasets.Dataset(pyarrow.parquet.read_table(path))
        elif path.suffix == ".jsonl":
            documents = datasets.Dataset.from_list(_read_lines(path))
        else:
            raise SourceError(f"{path}: expected a .parquet or .jsonl file of documents")
    except (OSError, ValueError, TypeError) as error:
        raise SourceError(f"{path}: cannot be read as documents: {error}") from error
    if len(documents) == 0:
        raise SourceError(f"{path}: holds no documents")
    return documents


def _read_lines(path: Path) -> list[dict[str, Any]]:
    documents = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                document = json.loads(line)
            except ValueError as error:
                raise SourceError(f"{path}:{number}: not a line of JSON: {error}") from error
            if not isinstance(document, dict):
                raise SourceError(f"{path}:{number}: expected an object, found {document!r}")
            documents.append(document)
    return documents


def _documents_by_split(
    files: Mapping[str, Path], **_task_metadata: object
) -> datasets.DatasetDict:
    return datasets.DatasetDict({split: read_documents(path) for split, path in files.items()})


def _exact_answer(document: Mapping[str, str], generated: list[str]) -> dict[str, float]:
    return {"exact_match": float(generated[0].strip() == document["answer"].strip())}


def _skill(benchmark: Benchmark, files: Mapping[str, Path]) -> ConfigurableTask:
    for number, document in enumerate(read_documents(files["test"]), 1):
        for key in ("prompt", "answer"):
            if not isinstance(document.get(key), str) or not document[key]:
                raise SourceError(f"{files['test']}:{number}: {key!r} is missing or no text")
    return ConfigurableTask(
        config={
            "task": benchmark.name,
            "custom_dataset": partial(_documents_by_split, files),
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "prompt",
            "doc_to_target": "answer",
            "target_delimiter": "",
            "process_results": _exact_answer,
            "generation_kwargs": {
                "until": ["\n"],
                "max_gen_toks": benchmark.max_new_tokens,
                "do_sample": False,
                "temperature": 0.0,
            },
            "metric_list": [
                {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
            ],
            "num_fewshot": 0,
        }
    )


def _public(
    benchmark: Benchmark, name: str, subject: str, files: Mapping[str, Path]
) -> ConfigurableTask:
    definition = _DEFINITIONS / benchmark.definition.replace("{subject}", subject)
    if not definition.is_file():
        raise ToolError(
            f"{benchmark.name}: the installed lm-eval has no task definition {definition.name}"
        )
    config = dict(load_yaml(definition, resolve_func=True))
    for key in ("tag", "group", "task_list"):
        config.pop(key, None)
    config["task"] = name
    config["custom_dataset"] = partial(_documents_by_split, files)
    task = ConfigurableTask(config=config)
    needed = {
        task.config.test_split or task.config.validation_split,
        task.config.fewshot_split
        or task.config.training_split
        or task.config.validation_split
        or task.config.test_split,
    }
    if missing := sorted(needed - set(files)):
        raise RecipeError(f"eval.tasks.{benchmark.name}.splits: {missing[0]!r} is missing")
    return task


def build_tasks(benchmark: Benchmark) -> dict[str, ConfigurableTask]:
    """The lm-eval tasks that a benchmark consists of: one, or one for each of its subjects.

    Each has its number of few-shot examples and their seed set. Raises SourceError for data that
    are missing or malformed, RecipeError for a metric that the task does not have.
    """
    # Documents are never sent through a cache on disk: it would be keyed by path and time.
    datasets.disable_caching()
    tasks = {}
    for name, files in data_files(benchmark).items():
        with quiet():
            if benchmark.kind == "skill":
                task = _skill(benchmark, files)
            else:
                task = _public(benchmark, name, name.partition(".")[2], files)
        if benchmark.metric not in task.aggregation():
            known = ", ".join(sorted(task.aggregation()))
            raise RecipeError(
                f"eval.tasks.{benchmark.name}.metric: {benchmark.metric!r} is none of {known}"
            )
        task.set_config(key="num_fewshot", value=benchmark.few_shot)
        task.set_fewshot_seed(FEW_SHOT_SEED)
        tasks[name] = task
    return tasks
