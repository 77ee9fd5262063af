"""`dvc.yaml` as DVC itself would write it, and the final model by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.pipeline.project import ROOT, clone, without_evaluation


def test_artifact_is_an_output_of_a_stage() -> None:
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    final = pipeline["artifacts"]["final"]
    assert final["path"] in pipeline["stages"]["gradient"]["outs"]
    assert final["type"] == "model" and final["desc"] and "merge" in final["labels"]


def test_freeze_and_unfreeze_leave_no_diff(tmp_path: Path) -> None:
    project = clone(tmp_path / "clone")
    project.run("dvc", "freeze", "gradient")  # DVC refuses to freeze a stage with `${…}`
    assert project.run("git", "diff", "--numstat", "dvc.yaml").split()[:2] == ["1", "0"]
    project.run("dvc", "unfreeze", "gradient")
    assert project.run("git", "diff", "dvc.yaml") == ""


@pytest.mark.full
def test_final_model_is_got_by_its_name(tmp_path: Path) -> None:
    project = without_evaluation(clone(tmp_path / "clone"))
    project.run("dvc", "repro")
    project.commit("built")
    project.run("git", "tag", "-a", "-m", "first", "final@v1.0.0")
    got = tmp_path / "got"
    project.run("dvc", "artifacts", "get", str(project.folder), "final", "-o", str(got))
    built = project.folder / "merged" / "final"
    assert {p.name for p in got.iterdir()} == {p.name for p in built.iterdir()}
    assert (got / "manifest.json").read_bytes() == (built / "manifest.json").read_bytes()
