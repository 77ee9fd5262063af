"""`remerge score` prints a table, compares with published scores, says in a line what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from remerge.cli import main
from remerge.quantize import quantize
from tests.evaluate.conftest import make_chain_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Says "ten" after a question mark."""
    folder = tmp_path_factory.mktemp("models") / "ten"
    return make_chain_model(folder, ["?", "▁ten", "<0x0A>", "▁the"])


@pytest.fixture
def params(tmp_path: Path) -> Path:
    items = [{"prompt": f"what is {i}?", "answer": ("ten", "two")[i % 2]} for i in range(4)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    task = {
        "kind": "skill",
        "data": str(tmp_path / "items.jsonl"),
        "metric": "exact_match",
        "max_new_tokens": 4,
    }
    published = {"Ten": {"count": 50.3, "average": 57.0}}
    suite = {"suite": "skills", "tasks": {"count": task}, "published": published}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"eval": suite}))
    return tmp_path / "params.yaml"


def test_scores_are_printed_and_compared_with_published_ones(
    model: Path, params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    arguments = ["score", str(model), "--params", str(params), "--out", str(out)]
    assert main([*arguments, "--published", "Ten"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "      count  average",
        "ten  0.5000   0.5000",
        "ten count: 50.00, published 50.30, difference -0.30: same",
        "ten average: 50.00, published 57.00, difference -7.00: differs",
    ]
    assert json.loads((out / "ten" / "scores.json").read_text())["scores"] == {"count": 0.5}
    assert (tmp_path / ".scratch" / "evaluate").is_dir()


def test_a_limit_is_printed_as_a_note(
    model: Path, params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "scores")
    arguments = ["score", str(model), "--params", str(params), "--out", out, "--limit", "1"]
    assert main([*arguments, "--published", "Ten"]) == 0
    said = capsys.readouterr().out
    assert "note: scored on the first 1 items" in said
    assert said.count(": not comparable") == 2
    assert ": same" not in said
    assert ": differs" not in said


def test_what_the_pipeline_made_is_never_written_over(
    model: Path,
    params: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    outs = [{"path": "scores/ten", "md5": "0"}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"quantize_eval@ten": {"outs": outs}}}))
    arguments = ["score", str(model), "--params", str(params), "--limit", "1"]
    assert main([*arguments, "--out", "scores"]) == 1
    assert "is made by the stage quantize_eval@ten" in capsys.readouterr().err
    assert main(arguments) == 0
    assert not Path("scores").exists()
    assert Path("scratch/scores/ten/scores.json").is_file()


def test_a_file_is_a_model_and_says_what_ran_it(
    model: Path, params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xllamacpp", reason="the runtimes are an extra")
    quantize(model, tmp_path / "q8", "gguf_q8_0", threads=1)
    out = tmp_path / "scores"
    arguments = ["score", "--params", str(params), "--out", str(out)]
    assert main([*arguments, str(tmp_path / "q8" / "model.gguf")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["q8", "0.5000", "0.5000"]
    result = json.loads((out / "q8" / "scores.json").read_text())
    assert (result["runtime"], result["class"]) == ("llama.cpp", "same-platform")
    assert result["settings"]["dtype"] == "float32 or less"
    versions = json.loads((out / "whole" / "q8" / "results.json").read_text())["versions"]
    assert versions["xllamacpp"]
    assert main([*arguments, str(params)]) == 1
    assert "neither GGUF nor GGML" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--published", "Eleven"], "the suite skills has scores of: Ten"),
        (["--dtype", "int4"], "eval.dtype"),
        (["--params", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_is_wrong_is_one_line(
    model: Path,
    params: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["score", str(model), "--params", str(params), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
