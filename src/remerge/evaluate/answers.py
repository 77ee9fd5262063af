"""What a model answered to the first questions of each task, for people to read.

Greedy answers in the type of the suite: of the class of the suite's scores, since they are what the
scores were counted of.

>>> write_answers(Path("merged/final"), suite, Path("answers/final"), Path("scratch/evaluate"))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from remerge.evaluate.kept import Kept, read_record
from remerge.evaluate.scoring import score
from remerge.evaluate.suite import Suite, with_settings
from remerge.tensors.json_files import write_json

ANSWERS = "answers.json"
#: Questions of a task.
QUESTIONS = 3
#: Characters of a question or an answer; a model may write until its limit.
LONGEST = 2000


def write_answers(model: Path, suite: Suite, out: Path, scratch: Path) -> None:
    """Write `out/answers.json`: by task a list of question, expected, answer and whether right.

    Tasks that choose among given answers are not in it.

    Args:
        model: The folder of the model.
        suite: What it was scored on.
        out: The folder to write.
        scratch: Where scoring keeps finished tasks. If one is not there, the first questions of
            the suite are asked again, which gives the same answers.

    Raises:
        SourceError, CheckpointError or ToolError: As of `score`.
    """
    records = _finished(model, suite, scratch)
    if records is None:
        few = with_settings(suite, limit=min(QUESTIONS, suite.limit or QUESTIONS))
        score(model, few, scratch / "asked" / out.name, scratch=scratch)
        records = _finished(model, few, scratch) or {}
    write_json(
        out / ANSWERS,
        {
            task: answers
            for task, (metric, chosen, record) in records.items()
            if (answers := list(_answers(record, metric, chosen)))
        },
    )


def _finished(
    model: Path, suite: Suite, scratch: Path
) -> dict[str, tuple[str, str, dict[str, Any]]] | None:
    """Metric, filter and record of each plain task; None if one is not finished."""
    kept = Kept.of(model, suite, scratch)
    found = {}
    for benchmark in suite.benchmarks:
        if benchmark.subjects:  # a choice among given answers, fifty times
            continue
        record = read_record(kept.path(benchmark.name))
        if record is None:
            return None
        found[benchmark.name] = (benchmark.metric, benchmark.answer_filter, record)
    return found


def _answers(record: Mapping[str, Any], metric: str, chosen: str) -> Iterator[dict[str, Any]]:
    """The answers to the first questions, where text was generated."""
    samples = [s for s in record["samples"] if "question" in s and s["filter"] == chosen]
    for sample in samples[:QUESTIONS]:
        yield {
            "question": str(sample["question"])[:LONGEST],
            "expected": str(sample["target"])[:LONGEST],
            "answer": str(sample["resps"][0][0])[:LONGEST],
            "right": sample.get(metric) == 1.0,
        }
