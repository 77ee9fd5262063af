"""What comes out of an evaluation: rounded numbers to compare, whole ones to look into.

The rounded numbers are what git and DVC hold; they are the same on any machine where the score is
counted over items or the forward pass is float64. The whole ones (text, log-likelihoods) are kept
beside them and belong to the machine that made them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from remerge.errors import NumericError
from remerge.evaluate.suite import Suite

DIGITS = 4


def rounded(value: float, where: str) -> float:
    """`value` to four decimals; NaN and Inf raise NumericError, for they are no score."""
    if not math.isfinite(value):
        raise NumericError(f"{where}: the score is {value}; the model's output holds NaN or Inf")
    return round(float(value), DIGITS) + 0.0


#: What runs a model of safetensors, in the type that the suite says.
TRANSFORMERS = "transformers"
#: The type that a program computes in which people run quants in, whatever the suite says.
LESS = "float32 or less"


def summarise(
    suite: Suite,
    values: Mapping[str, float],
    counts: Mapping[str, int],
    runtime: str = TRANSFORMERS,
) -> dict[str, Any]:
    """The rounded scores of a suite, computed in `runtime`.

    values, counts: for each task (a subject counts as a task) its metric as a fraction and the
    number of items behind it. A benchmark with subjects is their plain mean; the average is the
    plain mean of the benchmarks, taken before rounding. `class` says where the numbers come out
    the same: `stable` on any machine, `same-platform` on one with one set of libraries.
    """
    stable = runtime == TRANSFORMERS and suite.dtype == "float64" and suite.device == "cpu"
    whole: dict[str, float] = {}
    scores: dict[str, float] = {}
    subjects: dict[str, dict[str, float]] = {}
    items: dict[str, int] = {}
    for benchmark in suite.benchmarks:
        name = benchmark.name
        parts = [f"{name}.{subject}" for subject in benchmark.subjects] or [name]
        whole[name] = math.fsum(values[part] for part in parts) / len(parts)
        scores[name] = rounded(whole[name], name)
        items[name] = sum(counts[part] for part in parts)
        if benchmark.subjects:
            subjects[name] = {part.partition(".")[2]: rounded(values[part], part) for part in parts}
    result: dict[str, Any] = {
        "suite": suite.name,
        "runtime": runtime,
        "class": "stable" if stable else "same-platform",
        "scores": scores,
        "average": rounded(math.fsum(whole.values()) / len(whole), "average"),
        "items": items,
        "settings": {
            "dtype": suite.dtype if runtime == TRANSFORMERS else LESS,
            "limit": suite.limit,
            "add_bos_token": suite.add_bos_token,
            "tasks": {
                b.name: {"metric": b.metric, "few_shot": b.few_shot} for b in suite.benchmarks
            },
        },
        "notes": list(suite.notes),
    }
    if suite.chat_template:  # said where it is so: scores of the plain way keep their bytes
        result["settings"]["chat_template"] = True
        result["settings"]["fewshot_as_multiturn"] = suite.fewshot_as_multiturn
    if subjects:
        result["subjects"] = subjects
    if suite.limit is not None:
        result["notes"].append(
            f"scored on the first {suite.limit} items of each task only: no number to publish"
        )
    return result


def compare(suite: Suite, model: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Published against rebuilt, in points (percent), one row a benchmark and one for the average.

    Keys of a row: task, published, rebuilt, difference (rebuilt − published), within (of the
    suite's tolerance), comparable. A benchmark whose name a note begins with ("gsm8k: …") is
    measured in another way than it was when published, and so is an average that includes it; then
    a last row has the mean of the others. Empty where nothing was published for `model`.
    """
    apart = {
        b.name for b in suite.benchmarks if any(n.startswith(f"{b.name}:") for n in suite.notes)
    }
    known = suite.published.get(model, {})
    rows = [
        _row(suite, name, known[name], 100 * result["scores"][name], name not in apart)
        for name in (benchmark.name for benchmark in suite.benchmarks)
        if name in known
    ]
    same = [row for row in rows if row["comparable"]]
    if "average" in known:
        rows.append(_row(suite, "average", known["average"], 100 * result["average"], not apart))
        if apart and len(same) > 1:
            published = math.fsum(row["published"] for row in same) / len(same)
            rebuilt = 100 * math.fsum(result["scores"][row["task"]] for row in same) / len(same)
            rows.append(_row(suite, f"mean of the {len(same)} others", published, rebuilt, True))
    return rows


def _row(
    suite: Suite, task: str, published: float, rebuilt: float, comparable: bool
) -> dict[str, Any]:
    difference = round(round(rebuilt, 2) - published, 2)
    return {
        "task": task,
        "published": round(published, 2),
        "rebuilt": round(rebuilt, 2),
        "difference": difference,
        "within": abs(difference) <= suite.tolerance,
        "comparable": comparable,
    }


def suite_as_json(suite: Suite) -> dict[str, Any]:
    """`suite` as plain JSON values, for keys and for the whole results."""
    values = asdict(suite)
    for benchmark in values["benchmarks"]:
        benchmark["data"] = str(benchmark["data"])
    return values
