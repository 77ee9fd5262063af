"""`remerge quantize`: every format by hand, mistakes told before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remerge.cli import main
from remerge.quantize.formats import FORMATS

EMBEDDED = Path(__file__).parents[2] / "embedded"
MODEL = EMBEDDED / "sources" / "sorting"


def test_formats_are_written_measured_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = tmp_path / "questions.jsonl"
    lines = (EMBEDDED / "evaluation" / "sorting.jsonl").read_text().splitlines()[:5]
    questions.write_text("\n".join(lines) + "\n")
    out = tmp_path / "quants"
    names = ["gguf_q8_0", "ggml_q4_0"]
    arguments = ["quantize", str(MODEL), *names, "--out", str(out), "--name", "Tiny"]
    assert main([*arguments, "--prompt", "alpaca", "--measure", str(questions)]) == 0
    told = capsys.readouterr().out
    for name in names:
        manifest = json.loads((out / name / "manifest.json").read_text())
        assert manifest["sha256"] in told
        assert f"perplexity {manifest['perplexity']:.4f}" in told
        assert manifest["name"] == "Tiny"
    assert b"### Response:" in (out / "gguf_q8_0" / "model.gguf").read_bytes()


def test_the_name_is_that_of_the_folder_unless_given(tmp_path: Path) -> None:
    assert main(["quantize", str(MODEL), "gguf_q8_0", "--out", str(tmp_path)]) == 0
    manifest = json.loads((tmp_path / "gguf_q8_0" / "manifest.json").read_text())
    assert manifest["name"] == "sorting"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gguf_q9"], "'gguf_q9' is not a format; choose from gguf_f16"),
        (["exact", "gguf_q8_0"], "gguf_q8_0 is named twice"),
        (["gguf_q8_0", "gptq_4bit_128g"], "give one with --calibration"),
        (["gguf_q8_0", "--measure", "nosuch.txt"], "nosuch.txt: no such text"),
        (["gguf_q8_0", "--calibration", "nosuch.txt"], "nosuch.txt: no such text"),
        (["gguf_q8_0", "gguf_f16"], "gguf_f16 exists; remove it"),
        (["gguf_q8_0", "--threads", "0"], "threads"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    (tmp_path / "gguf_f16").mkdir()
    assert main(["quantize", str(MODEL), *arguments, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["gguf_f16"]


def test_help_lists_every_format_with_its_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["quantize", "--help"])
    told = capsys.readouterr().out
    for entry in FORMATS.values():
        assert entry.name in told
        assert entry.description in told
