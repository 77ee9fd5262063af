"""What a model answered to the first questions of each task, for people to read.

Greedy answers, of the class of the suite's scores, which are counted of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remerge.evaluate.suite import Suite

ANSWERS = "answers.json"
#: Questions of a task.
QUESTIONS = 3
#: Characters of a question or an answer; a model may write until its limit.
LONGEST = 2000


def first_answers(suite: Suite, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return, by task, question, expected answer, answer and whether it is right.

    Args:
        suite: What the model was scored on.
        records: What is known of each task, as of `Run.records`.

    Returns:
        Tables for JSON. Tasks that choose among given answers are not among them.
    """
    found = {}
    for benchmark in suite.benchmarks:
        samples = records[benchmark.name]["samples"] if benchmark.name in records else []
        asked = [s for s in samples if "question" in s and s["filter"] == benchmark.answer_filter]
        if asked:
            found[benchmark.name] = [_answer(s, benchmark.metric) for s in asked[:QUESTIONS]]
    return found


def _answer(sample: Mapping[str, Any], metric: str) -> dict[str, Any]:
    return {
        "question": str(sample["question"])[:LONGEST],
        "expected": str(sample["target"])[:LONGEST],
        "answer": str(sample["resps"][0][0])[:LONGEST],
        "right": sample.get(metric) == 1.0,
    }
