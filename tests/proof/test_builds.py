"""Two builds are compared by what lies there; the first stage that differs is named first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from remerge import cli
from remerge.errors import CheckpointError, ToolError
from remerge.proof.builds import compare_builds
from remerge.proof.lock import in_pipeline_order
from remerge.proof.rebuild import described, verify
from tests.proof.models import flip_bit, llama, save

ROOT = Path(__file__).parents[2]


def stage(out: str, *deps: str) -> dict:
    return {
        "cmd": f"make {out}",
        "deps": [{"path": path, "md5": "0"} for path in deps],
        "outs": [{"path": out, "md5": "0", "size": 1}],
    }


STAGES = {
    "a_report": stage("report", "merged/final/manifest.json"),
    "gradient": stage("merged/final", "merged/p1", "merged/p2"),
    "ties_p1": stage("merged/p1", "models/base"),
    "ties_p2": stage("merged/p2", "models/base"),
    "z_fetch": stage("models/base"),
}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    root = tmp_path / "build"
    for number, name in enumerate(["models/base", "merged/p1", "merged/p2", "merged/final"]):
        save(root / name, llama(number), 20000)
    (root / "report").write_text("<html>")
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": STAGES}))
    return root


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_stages_come_after_what_they_read() -> None:
    assert list(in_pipeline_order(STAGES)) == [
        "z_fetch",
        "ties_p1",
        "ties_p2",
        "gradient",
        "a_report",
    ]


def test_a_copy_is_the_same_build(finished: Path, copy: Path) -> None:
    comparison = compare_builds(finished, copy)
    assert comparison.same
    assert described(comparison)[0].startswith("the same: 5 artefacts, ")


def test_the_first_stage_and_the_tensors_that_differ_are_named(finished: Path, copy: Path) -> None:
    (copy / "report").write_text("<HTML>")
    tensors = llama(1)
    values = tensors["model.layers.1.mlp.up_proj.weight"][1]
    values.view("<u2")[0, 0] ^= 1
    shutil.rmtree(copy / "merged/p1")
    save(copy / "merged/p1", tensors, 20000)
    comparison = compare_builds(finished, copy)
    assert [artefact.stage for artefact in comparison.differing] == ["ties_p1", "a_report"]
    lines = described(comparison)
    assert lines[0] == "merged/p1, made by ties_p1, differs first"
    tensor = "    tensor model.layers.1.mlp.up_proj.weight: 1 of 1536, at most 1 ulp"
    assert tensor in lines
    assert lines[-2:] == [
        "report, made by a_report, differs too",
        "3 of 5 artefacts are the same",
    ]


def test_what_lies_there_counts_and_not_what_the_lock_says(finished: Path, copy: Path) -> None:
    shard = min((finished / "merged/final").glob("*.safetensors"))
    flip_bit(shard, shard.stat().st_size - 1)
    assert [artefact.path for artefact in compare_builds(finished, copy).differing] == [
        "merged/final"
    ]


def test_another_record_of_the_same_artefacts_is_said(finished: Path, copy: Path) -> None:
    changed = dict(STAGES) | {"gradient": STAGES["gradient"] | {"cmd": "other"}}
    (copy / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": changed}))
    comparison = compare_builds(finished, copy)
    assert not comparison.same
    assert described(comparison)[0] == "dvc.lock differs at gradient, but no artefact does"


def test_an_unfinished_build_is_refused(finished: Path, copy: Path) -> None:
    shutil.rmtree(copy / "merged/p2")
    with pytest.raises(CheckpointError, match="no finished build of ties_p2"):
        compare_builds(finished, copy)
    (copy / "dvc.lock").unlink()
    with pytest.raises(CheckpointError, match=r"dvc\.lock: cannot be read"):
        compare_builds(finished, copy)


def test_the_command_compares_two_builds(
    finished: Path, copy: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["verify", str(finished), "--against", str(copy)]) == 0
    (copy / "report").write_text("")
    assert cli.main(["verify", str(finished), "--against", str(copy)]) == 1
    assert "report, made by a_report, differs first" in capsys.readouterr().out


def run(*command: str, cwd: Path) -> None:
    variables = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "DVC_NO_ANALYTICS": "1",
    }
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ("git", *author, *command[1:]) if command[0] == "git" else command
    subprocess.run(command, cwd=cwd, env=variables, check=True, capture_output=True)


def project(root: Path, **reports: str) -> Path:
    """A pipeline under git: a real merge, and stages that write NAME.txt by a line of shell."""
    for number, name in enumerate(["first", "second"]):
        save(root / name, llama(number))
    blend = "python -m remerge.cli gradient first second 0 1 --out merged --scratch scratch"
    stages = {"blend": {"cmd": blend, "deps": ["first", "second"], "outs": ["merged"]}}
    for name, command in reports.items():
        stages[name] = {"cmd": command, "deps": ["merged"], "outs": [f"{name}.txt"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    # The clone has no source of its own here; a project of ours has.
    (root / "src").symlink_to(ROOT / "src")
    run("git", "init", "--quiet", cwd=root)
    run("dvc", "init", "--quiet", cwd=root)
    run("dvc", "repro", "--quiet", cwd=root)
    run("git", "add", "--all", cwd=root)
    run("git", "commit", "--quiet", "-m", "built", cwd=root)
    return root


@pytest.mark.full
def test_a_build_that_depends_on_nothing_else_is_reproduced(tmp_path: Path) -> None:
    root = project(tmp_path / "project", sums="sha256sum merged/*.safetensors > sums.txt")
    lines: list[str] = []
    results = verify(root, tmp_path / "work", report=lines.append)
    assert [result.comparison.same for result in results] == [True, True]
    varied = {what for result in results for what, _ in result.surroundings.varied}
    wanted = {"path", "umask", "locale", "time zone", "hash seed", "threads", "cores"}
    assert wanted <= varied
    assert not (tmp_path / "work").exists()


@pytest.mark.full
def test_every_stage_that_looks_around_is_caught(tmp_path: Path) -> None:
    leaks = {
        "zone": "date +%Z",
        "path": "pwd",
        "seed": "echo $PYTHONHASHSEED",
        "mask": "umask",
        "home": "echo $HOME",
        "cores": "nproc",
        "locale": "echo $LC_ALL",
        "clock": "date +%s",
        "user": "id -u",
    }
    commands = {name: f"{leak} > {name}.txt" for name, leak in leaks.items()}
    root = project(tmp_path / "project", **commands)
    results = verify(root, tmp_path / "work")
    caught = {a.stage for result in results for a in result.comparison.differing}
    spared = {"user"} if "user and host" in dict(results[1].surroundings.fixed) else set()
    assert caught == set(leaks) - spared
    assert "blend" not in caught


def test_changes_that_are_not_committed_are_refused(tmp_path: Path) -> None:
    run("git", "init", "--quiet", str(tmp_path), cwd=tmp_path)
    (tmp_path / "params.yaml").write_text("a: 1")
    run("git", "add", "params.yaml", cwd=tmp_path)
    with pytest.raises(ToolError, match=r"params\.yaml differs from the commit"):
        verify(tmp_path, tmp_path / "work")
