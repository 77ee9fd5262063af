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


def summarise(
    suite: Suite, values: Mapping[str, float], counts: Mapping[str, int]
) -> dict[str, Any]:
    """The rounded scores of a suite.

    values, counts: for each task (a subject counts as a task) its metric as a fraction and the
    number of items behind it. A benchmark with subjects is their plain mean; the average is the
    plain mean of the benchmarks, taken before rounding.
    """
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
        "scores": scores,
        "average": rounded(math.fsum(whole.values()) / len(whole), "average"),
        "items": items,
        "settings": {
            "dtype": suite.dtype,
            "limit": suite.limit,
            "add_bos_token": suite.add_bos_token,
            "tasks": {
                b.name: {"metric": b.metric, "few_shot": b.few_shot} for b in suite.benchmarks
            },
        },
        "notes": list(suite.notes),
    }
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
    measured in another way than it was when published, and so is an average that includes it.
    Empty where nothing was published for `model`.
    """
    apart = {
        b.name for b in suite.benchmarks if any(n.startswith(f"{b.name}:") for n in suite.notes)
    }
    known = suite.published.get(model, {})
    rows = []
    for name in [*(benchmark.name for benchmark in suite.benchmarks), "average"]:
        if name not in known:
            continue
        published = known[name]
        fraction = result["average"] if name == "average" else result["scores"][name]
        rebuilt = round(100 * fraction, 2)
        difference = round(rebuilt - published, 2)
        rows.append(
            {
                "task": name,
                "published": published,
                "rebuilt": rebuilt,
                "difference": difference,
                "within": abs(difference) <= suite.tolerance,
                "comparable": not apart if name == "average" else name not in apart,
            }
        )
    return rows


def suite_as_json(suite: Suite) -> dict[str, Any]:
    """`suite` as plain JSON values, for keys and for the whole results."""
    values = asdict(suite)
    for benchmark in values["benchmarks"]:
        benchmark["data"] = str(benchmark["data"])
    return values
