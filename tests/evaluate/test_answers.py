"""The answers that the report shows are those that were scored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from remerge.evaluate import score
from remerge.evaluate.answers import QUESTIONS, write_answers
from tests.evaluate.test_resume import suite_of


def test_answers_are_those_that_were_scored(model_folder: Path, tmp_path: Path) -> None:
    scratch, suite = tmp_path / "scratch", suite_of(tmp_path, items=5)
    score(model_folder, suite, tmp_path / "s" / "m", scratch=scratch, whole_folder=tmp_path / "w")
    write_answers(model_folder, suite, tmp_path / "kept", scratch)
    found = json.loads((tmp_path / "kept" / "answers.json").read_text())
    assert list(found) == ["first", "second"]
    for task, answers in found.items():
        lines = (tmp_path / "w" / "m" / f"{task}.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in lines][:QUESTIONS]
        assert [a["answer"] for a in answers] == [s["resps"][0][0] for s in samples]
        assert [a["right"] for a in answers] == [s["exact_match"] == 1 for s in samples]
        assert answers[1]["question"] == f"{task} what is 1?"
        assert {a["expected"] for a in answers} == {"ten"}
    # Where nothing was kept the same is asked again.
    write_answers(model_folder, suite, tmp_path / "again", tmp_path / "other")
    again = (tmp_path / "again" / "answers.json").read_bytes()
    assert again == (tmp_path / "kept" / "answers.json").read_bytes()


def test_kept_answers_are_found_without_torch() -> None:
    code = (
        "import sys, remerge.stages.answers; sys.exit(sum(m in sys.modules for m in "
        "('torch', 'transformers', 'lm_eval', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
