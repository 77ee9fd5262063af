"""From finished shards to a folder: other disks, folders that cannot be written, resume keys."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from remerge.errors import CheckpointError, ToolError
from remerge.shards import artefact
from remerge.shards.artefact import build, companions_of
from remerge.tensors.layout import OutputTensor, plan_shards
from tests.faults.made import contents, family, left_behind, ties_plan

WIDE = (OutputTensor("lm_head.weight", "F64", (2,)),)


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder that has no hard links with the temporary one, on Linux."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_scratch_may_lie_on_another_disk(tmp_path: Path, other_disk: Path) -> None:
    base, donors = family(tmp_path)
    plan, files = ties_plan(base, donors), companions_of(base)
    assert len(plan.shards) > 1
    here = build(plan, tmp_path / "here", companions=files, scratch=tmp_path / "s", threads=1)
    there = build(plan, tmp_path / "there", companions=files, scratch=other_disk, threads=1)
    assert here == there and contents(tmp_path / "here") == contents(tmp_path / "there")
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "there").iterdir()} == {0o644}
    assert not list(left_behind(tmp_path)) and not list(other_disk.iterdir())


def test_room_is_asked_for_on_both_disks(
    tmp_path: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, donors = family(tmp_path)
    plan = ties_plan(base, donors)
    whole = sum(shard.nbytes for shard in plan.shards)
    asked: list[list[tuple[Path, int]]] = []
    monkeypatch.setattr(artefact, "require_spaces", lambda needs, what: asked.append(list(needs)))
    for scratch in (tmp_path / "scratch", other_disk):
        build(plan, tmp_path / f"out{len(asked)}", companions={}, scratch=scratch, threads=1)
    same = other_disk.stat().st_dev == tmp_path.stat().st_dev
    assert [size for _, size in asked[0]] == [whole]
    assert [size for _, size in asked[1]] == ([whole] if same else [whole, whole])


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    base, donors = family(tmp_path)
    plan, scratch = ties_plan(base, donors), tmp_path / "scratch"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ToolError, match=r"ties: .*file/out"):
        build(plan, tmp_path / "file" / "out", companions={}, scratch=scratch, threads=1)
    assert not scratch.exists()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_settings_that_are_no_json_are_told_before_the_work(tmp_path: Path, name: str) -> None:
    base, donors = family(tmp_path)
    (base / name).write_text('{"temperature": NaN}')
    with pytest.raises(CheckpointError, match=rf"{name}: .*NaN"):
        build(
            ties_plan(base, donors),
            tmp_path / "out",
            companions=companions_of(base),
            scratch=tmp_path / "scratch",
            threads=1,
        )
    assert not (tmp_path / "scratch").exists()


def test_weights_that_no_config_can_name_are_told_before_the_work(tmp_path: Path) -> None:
    base, donors = family(tmp_path)
    plan = ties_plan(base, donors)
    for tensors, says in (((), "there are no weights"), (WIDE, "weights are F64; expected one of")):
        odd = replace(plan, shards=plan_shards(tensors, 10**9))
        with pytest.raises(CheckpointError, match=says):
            build(odd, tmp_path / "out", companions={}, scratch=tmp_path / "s", threads=1)
    assert not (tmp_path / "s").exists()


def test_a_link_that_fails_for_another_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, donors = family(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    plan = ties_plan(base, donors)
    with pytest.raises(ToolError, match="No space left"):
        build(plan, tmp_path / "out", companions={}, scratch=tmp_path / "scratch", threads=1)
    assert not (tmp_path / "out").exists() and not list(left_behind(tmp_path))
