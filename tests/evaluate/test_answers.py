"""The answers that the report shows are those that were scored."""

from __future__ import annotations

import json
from pathlib import Path

from remerge.evaluate import score
from remerge.evaluate.answers import QUESTIONS
from tests.evaluate.test_resume import suite_of


def test_answers_are_those_that_were_scored(model_folder: Path, tmp_path: Path) -> None:
    scratch, suite = tmp_path / "scratch", suite_of(tmp_path, items=5)
    out = tmp_path / "s" / "m"
    score(model_folder, suite, out, scratch=scratch, whole_folder=tmp_path / "w")
    found = json.loads((out / "answers.json").read_text())
    assert list(found) == ["first", "second"]
    for task, answers in found.items():
        lines = (tmp_path / "w" / "m" / f"{task}.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in lines][:QUESTIONS]
        assert [a["answer"] for a in answers] == [s["resps"][0][0] for s in samples]
        assert [a["right"] for a in answers] == [s["exact_match"] == 1 for s in samples]
        assert answers[1]["question"] == f"{task} what is 1?"
        assert {a["expected"] for a in answers} == {"ten"}
    # A run whose tasks are all kept writes the same.
    first = (out / "answers.json").read_bytes()
    score(model_folder, suite, out, scratch=scratch, whole_folder=tmp_path / "w")
    assert (out / "answers.json").read_bytes() == first
