"""The committed suite `open_llm_leaderboard_v1`, its data folders turned to fixture data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from remerge.evaluate import Suite, suite_from_params
from tests.evaluate.fixture_data import write_benchmark

SUITE_FILE = Path(__file__).parents[2] / "conf" / "eval" / "open_llm_leaderboard_v1.yaml"


def leaderboard_params() -> dict[str, Any]:
    """The suite as committed."""
    values: dict[str, Any] = yaml.safe_load(SUITE_FILE.read_text())
    return values


def leaderboard_on(folder: Path, *names: str, subjects: int | None = None) -> Suite:
    """The suite, or the named tasks of it, on fixture data written into `folder`, in float64.

    subjects: keep only so many of MMLU's.
    """
    values = leaderboard_params()
    tasks = {}
    for name, task in values["tasks"].items():
        if names and name not in names:
            continue
        if task.get("subjects"):
            task["subjects"] = task["subjects"][:subjects]
        task["data"] = str(folder / name)
        write_benchmark(folder / name, name, task["splits"], task.get("subjects") or ())
        tasks[name] = task
    return suite_from_params(
        {**values, "tasks": tasks, "published": {}, "dtype": "float64", "device": "cpu"}
    )
