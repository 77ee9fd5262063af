"""A lock that an interruption broke is put back, and entries of other recipes are dropped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from remerge.errors import ToolError
from remerge.lock_copy import COPY, LOCK, keep_copy, pruned, repair, stages_in
from tests.pipeline.project import ROOT, Project, clone

TEXT = (ROOT / "dvc.lock").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / COPY).parent.mkdir(parents=True)
    (tmp_path / LOCK).write_text(TEXT)
    return tmp_path


@pytest.mark.parametrize("size", [0, 1, 100, len(TEXT) // 2])
def test_broken_lock_is_named_and_put_back(folder: Path, size: int) -> None:
    keep_copy(folder)
    (folder / LOCK).write_text(TEXT[:size].rstrip("\n"))
    with pytest.raises(ToolError, match=r"dvc\.lock is empty or cut off; `remerge repair` puts"):
        keep_copy(folder)
    assert "is back: `dvc checkout`" in repair(folder)
    assert (folder / LOCK).read_text() == TEXT
    assert repair(folder) == "dvc.lock is whole"


def test_whole_lock_replaces_the_copy_also_when_it_shrank(folder: Path) -> None:
    keep_copy(folder)
    smaller, _ = pruned(TEXT, ["ties_p1"])
    (folder / LOCK).write_text(smaller)
    keep_copy(folder)
    assert (folder / COPY).read_text() == smaller


def test_broken_lock_without_a_copy_names_git(folder: Path) -> None:
    (folder / LOCK).write_text("")
    with pytest.raises(ToolError, match=r"`git checkout dvc\.lock`"):
        repair(folder)


def test_folder_without_dvc_is_left_alone(tmp_path: Path) -> None:
    keep_copy(tmp_path)
    (tmp_path / LOCK).write_text("")
    keep_copy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dvc.lock"]


def test_prune_drops_unknown_stages_and_keeps_every_other_byte() -> None:
    names = list(stages_in(TEXT) or {})
    assert pruned(TEXT, names) == (TEXT, [])
    entry = "  fetch@chat:\n    cmd: python\n    outs:\n    - path: models/chat\n      md5: a.dir\n"
    head, tail = TEXT.split("  fetch@base:\n")
    foreign = f"{head}{entry}  fetch@base:\n{tail}{entry.replace('chat', 'zoo')}"
    assert pruned(foreign, names) == (TEXT, ["fetch@chat", "fetch@zoo"])
    with pytest.raises(ToolError, match="not laid out as DVC writes it"):
        pruned("schema: '2.0'\nstages: {a: {cmd: x}, b: {cmd: y}}\n", ["a"])


@pytest.mark.full
def test_dvc_goes_on_after_its_lock_was_emptied(tmp_path: Path) -> None:
    project = clone(tmp_path / "clone")
    remerge = (sys.executable, "-m", "remerge.cli", "repair")
    project.run("dvc", "repro", "bake_loras")
    built = project.read("dvc.lock")
    project.run("dvc", "repro", "-f", "-s", "bake_loras@lookup")  # copies the lock as it starts
    (project.folder / "dvc.lock").write_text("")
    project.run("rm", "-rf", ".dvc/cache/runs")
    out = project.run("dvc", "repro", "fetch", expect=None)
    assert "'./dvc.lock' validation failed" in out  # by DVC, before any stage
    assert "is back" in project.run(*remerge)
    assert project.read("dvc.lock") == built
    assert project.stages_run("repro", "bake_loras") == []


def test_prune_asks_dvc_which_stages_exist(tmp_path: Path) -> None:
    project: Project = clone(tmp_path / "clone")
    lock = project.folder / "dvc.lock"
    project.run(sys.executable, "-m", "remerge.cli", "repair", "--prune")
    whole = lock.read_text()
    lock.write_text(whole + "  fetch@chat:\n    cmd: x\n")
    out = project.run(sys.executable, "-m", "remerge.cli", "repair", "--prune")
    assert "dropped fetch@chat" in out and lock.read_text() == whole
