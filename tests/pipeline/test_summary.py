"""A stage ends with one line that says what it made."""

from __future__ import annotations

from pathlib import Path

import pytest

from remerge.stages.summary import summary
from remerge.tensors.json_files import write_json


def test_model_is_told_with_size_and_id(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(3_000_000))
    write_json(tmp_path / "manifest.json", {"model_id": "ab" * 32})
    line = summary(tmp_path, 4.2)
    assert line == f"made {tmp_path}: 3.00 MB, model id {'ab' * 32}, 4.2 s"


def test_scores_are_told_with_their_mean(tmp_path: Path) -> None:
    result = {"average": 0.4444, "scores": {"a": 0.5, "b": 0.4}, "items": {"a": 100, "b": 100}}
    write_json(tmp_path / "scores.json", result)
    assert summary(tmp_path, 130).endswith(": mean 0.444, 200 items of 2 tasks, 2 min")


def test_format_is_told_with_what_it_lost(tmp_path: Path) -> None:
    manifest = {"size": 1_165_472, "bits_per_weight": 4.9451, "model_id": "x"}
    measured = {"perplexity": 1.8251, "reference_perplexity": 1.8114}
    write_json(tmp_path / "manifest.json", {**manifest, **measured})
    said = "1.17 MB, 4.95 bits a weight, perplexity 1.8251 (unquantized 1.8114), 3 s"
    assert summary(tmp_path, 3).endswith(said)
    write_json(tmp_path / "manifest.json", manifest)
    assert summary(tmp_path, 3).endswith("4.95 bits a weight, 3 s")


def test_report_is_told_with_the_final_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scores = {"final": {"mean": 0.362}, "base": {"mean": 0.2}}
    write_json(tmp_path / "results.json", {"scores": scores, "formats": {"gguf_f16": {}}})
    (tmp_path / "report").mkdir()
    said = "made report: index.html and README.md, final 0.362 in the mean, 1 format, 1 s"
    assert summary(Path("report"), 1) == said


def test_data_set_is_told_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(bytes(10))
    assert summary(tmp_path, 0.5).endswith(": 1 file, 0.00 MB, 0.5 s")
