"""An interrupted evaluation goes on where it stopped, after a finished task and inside one."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from remerge.evaluate import Suite, score, suite_from_params

ROOT = Path(__file__).parents[2]


def suite_of(folder: Path, items: int = 10) -> Suite:
    tasks = {}
    for name in ("first", "second"):
        file = folder / f"{name}.jsonl"
        lines = [{"prompt": f"{name} what is {i}?", "answer": "ten"} for i in range(items)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        tasks[name] = {
            "kind": "skill",
            "data": str(file),
            "metric": "exact_match",
            "max_new_tokens": 4,
        }
    return suite_from_params({"suite": "skills", "batch_size": 1, "tasks": tasks})


def answers_kept(scratch: Path) -> int:
    """How many answers the cache of a running evaluation holds so far."""
    for file in scratch.rglob("answers-*.db"):
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database,
        ):
            return int(database.execute("select count(*) from unnamed").fetchone()[0])
    return 0


def test_answers_of_an_unfinished_task_are_taken_from_the_cache(
    model_folder: Path, tmp_path: Path
) -> None:
    from sqlitedict import SqliteDict

    scratch = tmp_path / "scratch"
    suite = suite_of(tmp_path)
    result = score(model_folder, suite, tmp_path / "a" / "m", scratch=scratch)
    assert result["scores"] == {"first": 0.0, "second": 0.0}
    assert answers_kept(scratch) == 20
    # As if the second task had been cut off after its last answer; the kept answers are made
    # right ones, which the model would not give.
    for record in scratch.rglob("second-*.json"):
        record.unlink()
    (database,) = scratch.rglob("answers-*.db")
    with SqliteDict(str(database), autocommit=True) as answers:
        for key in list(answers):
            answers[key] = "ten"
    result = score(model_folder, suite, tmp_path / "b" / "m", scratch=scratch)
    assert result["scores"] == {"first": 0.0, "second": 1.0}


def test_a_damaged_record_is_made_again(model_folder: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    suite = suite_of(tmp_path)
    expected = score(model_folder, suite, tmp_path / "a" / "m", scratch=scratch)
    for record in scratch.rglob("*.json"):
        record.write_bytes(record.read_bytes()[:20])
    assert score(model_folder, suite, tmp_path / "b" / "m", scratch=scratch) == expected


@pytest.mark.full
def test_a_killed_evaluation_ends_as_if_it_had_not_been(model_folder: Path, tmp_path: Path) -> None:
    items = 100
    suite = suite_of(tmp_path, items)
    scratch = tmp_path / "scratch"
    program = f"""
from pathlib import Path
from tests.evaluate.test_resume import suite_of
from remerge.evaluate import score
score({str(model_folder)!r}, suite_of(Path({str(tmp_path)!r}), {items}),
      {str(tmp_path / "killed" / "m")!r}, scratch={str(scratch)!r})
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PATH": "/usr/bin:/bin"},
    )
    deadline = time.monotonic() + 120
    while answers_kept(scratch) < items + 20 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "m" / "scores.json").exists(), "it was over before the kill"
    (first,) = scratch.rglob("first-*.json")
    finished = first.stat().st_mtime_ns
    kept = answers_kept(scratch)
    assert items < kept < 2 * items
    score(model_folder, suite, tmp_path / "killed" / "m", scratch=scratch)
    assert first.stat().st_mtime_ns == finished
    score(model_folder, suite, tmp_path / "whole" / "m")
    assert (tmp_path / "killed/m/scores.json").read_bytes() == (
        tmp_path / "whole/m/scores.json"
    ).read_bytes()
