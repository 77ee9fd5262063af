"""Rows 16 to 23: bytes that changed after they were right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from remerge.errors import CheckpointError, SourceError
from remerge.shards.units import build_shards
from remerge.sources.pinned import local_files, parse_source
from remerge.tensors.checkpoint import open_checkpoint
from tests.answers import answered
from tests.faults.conftest import Built
from tests.faults.made import contents, family, merge, model, ties_plan
from tests.faults.rows import fault
from tests.faults.test_interruptions import apart, broken, fail
from tests.proof.models import flip_bit
from tests.sources.hub_server import sha256_of


@fault(
    16,
    "one bit of a source file flips after it was downloaded",
    sees="`error: source NAME: FILE has SHA-256 …, pinned is …`",
    then="the same until the file is fetched again",
)
def test_a_flipped_bit_in_a_source_is_found_before_it_is_used(tmp_path: Path) -> None:
    folder = model(tmp_path / "source", 0)
    files = {
        path.name: {"sha256": sha256_of(path.read_bytes()), "size": path.stat().st_size}
        for path in folder.iterdir()
    }
    source = parse_source("s", {"kind": "model", "path": "source", "files": files})
    local_files(source, tmp_path)
    flip_bit(folder / "model.safetensors", 20_000)
    with pytest.raises(SourceError, match=r"has SHA-256 .*, pinned is"):
        local_files(source, tmp_path)
    flip_bit(folder / "model.safetensors", 20_000)
    local_files(source, tmp_path)


def shard(built: Built) -> Path:
    """A shard of the final model that no other model has: where the blend ratio is 0 or 1 the bytes
    are a part's own, and DVC's cache holds them already.
    """
    shards = sorted((built.folder / "merged/final").glob("*.safetensors"))
    return shards[len(shards) // 2]


def cached(built: Built, path: Path) -> Path:
    """The object of DVC's cache that holds the same file."""
    assert path.stat().st_nlink > 1, f"{path} is a copy: no link with the cache"
    node = path.stat().st_ino
    objects = (built.folder / ".dvc/cache/files").rglob("*")
    return next(p for p in objects if p.is_file() and p.stat().st_ino == node)


def check_finds_it_and_repair_repairs_it(built: Built, damaged: Path) -> None:
    out = built.project.run("remerge", "check", "merged/final", expect=1)
    assert damaged.name in out and "tensor '" in out and "Traceback" not in out
    built.project.run("remerge", "repair", "merged/final")
    built.project.run("sh", "-c", "dvc pull merged/final || dvc repro")
    assert built.read_lock() == built.lock
    built.project.run("remerge", "check", "merged/final")


@fault(
    17,
    "one bit of an object in the DVC cache flips",
    sees="nothing from DVC; `remerge check` names file and tensor, `remerge repair` removes both",
    then="after the repair: the same `dvc.lock`",
)
@pytest.mark.full
def test_a_flipped_bit_in_the_cache_is_found_by_check(built: Built) -> None:
    damaged = shard(built)
    entry = cached(built, damaged)
    shutil.rmtree(damaged.parent)
    flip_bit(entry, entry.stat().st_size - 1)
    built.project.run("dvc", "checkout", "merged/final", expect=None)
    if not damaged.exists():  # DVC noticed by itself
        built.project.run("dvc", "repro", "-f", "-s", "gradient")
        assert built.read_lock() == built.lock
        return
    check_finds_it_and_repair_repairs_it(built, damaged)


@fault(
    18,
    "one bit of a finished shard flips before the stage resumes",
    sees="nothing",
    then="makes that shard again and keeps the others",
)
def test_a_finished_shard_with_a_flipped_bit_is_made_again(tmp_path: Path) -> None:
    from remerge.errors import ToolError

    base, donors = family(tmp_path)
    plan, work = ties_plan(base, donors), tmp_path / "work"
    with pytest.raises(ToolError):
        build_shards(broken(plan, fail), work, 1)
    first, second, *_ = sorted(work.glob("*.safetensors"))
    right, kept = first.read_bytes(), second.stat().st_ino
    for position in (0, 9, first.stat().st_size - 1):
        flip_bit(first, position)
        build_shards(plan, work, 2)
        assert first.read_bytes() == right and second.stat().st_ino == kept


@fault(
    19,
    "one bit of an object in the remote flips",
    sees="`dvc pull` fails (the remote has `verify = true`), and places nothing of it",
    then="`dvc repro` makes it again",
)
@pytest.mark.full
def test_a_flipped_bit_in_the_remote_is_not_pulled(built: Built, tmp_path: Path) -> None:
    project, right = built.project, shard(built).read_bytes()
    project.run("dvc", "remote", "add", "-d", "--local", "there", str(tmp_path / "remote"))
    project.run("dvc", "remote", "modify", "--local", "there", "verify", "true")
    try:
        project.run("dvc", "push", "merged/final")
        name = shard(built).name
        listing = json.loads(next((tmp_path / "remote").rglob("*.dir")).read_text())
        digest = next(entry["md5"] for entry in listing if entry["relpath"] == name)
        there = next((tmp_path / "remote").rglob(digest[2:]))
        there.chmod(0o644)
        flip_bit(there, there.stat().st_size - 1)
        cached(built, shard(built)).unlink()
        shutil.rmtree(built.folder / "merged/final")
        project.run("dvc", "pull", "merged/final", expect=1)
        placed = built.folder / "merged/final" / name
        assert not placed.exists() or placed.read_bytes() == right
        project.run("dvc", "repro", "-f", "-s", "gradient")
        assert built.read_lock() == built.lock
    finally:
        (built.folder / ".dvc" / "config.local").unlink()


@fault(
    20,
    "a shard that was cut short",
    sees="`error: FILE: the header describes … bytes, the file has …; it is truncated or was "
    "changed: fetch it again`",
    then="the same until it is whole",
)
def test_a_truncated_shard_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    base, donors = family(tmp_path)
    path = donors[1] / "model.safetensors"
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 100, 7, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"truncated|too short"):
            merge(base, donors, tmp_path / "out")
    path.write_bytes(whole)
    merge(base, donors, tmp_path / "out")
    assert open_checkpoint(tmp_path / "out")


@fault(
    21,
    "the user edits an output, which is a hard link into the cache",
    sees="nothing from DVC; `remerge check` names file and tensor, `remerge repair` removes both",
    then="after the repair: the same `dvc.lock`",
)
@pytest.mark.full
def test_an_edited_output_is_found_by_check(built: Built) -> None:
    damaged = shard(built)
    assert cached(built, damaged)
    flip_bit(damaged, damaged.stat().st_size - 1)
    check_finds_it_and_repair_repairs_it(built, damaged)


@fault(
    22,
    "lock files of a `dvc` that is dead",
    sees="nothing, or DVC's line that it removed them",
    then="builds as ever",
)
@pytest.mark.full
def test_stale_lock_files_hold_up_nothing(built: Built) -> None:
    temporary = built.folder / ".dvc" / "tmp"
    dead = {"pid": 999_999_999, "cmd": "dvc repro"}
    final = str(built.folder / "merged" / "final")
    (temporary / "rwlock").write_text(json.dumps({"write": {final: dead}}))
    (temporary / "lock").touch()
    built.project.run("dvc", "repro", "-f", "-s", "gradient")
    assert built.read_lock() == built.lock


MERGE = """
import sys
from pathlib import Path
from remerge.errors import RemergeError
from tests.faults.made import merge
try:
    merge(Path("base"), [Path("donor1"), Path("donor2")], Path(sys.argv[1]))
except RemergeError as error:
    sys.exit(f"error: {error}")
"""


@fault(
    23,
    "a cache of compiled code that is cut, empty or has flipped bits, is of another version or "
    "processor, or cannot be written (each kind alone: tests/kernels/test_compiled.py)",
    sees="nothing: what is not whole, or not for this source, version and processor, is compiled "
    "again",
    then="the same bytes",
)
@pytest.mark.full
def test_a_bad_compile_cache_changes_no_byte(tmp_path: Path) -> None:
    base, donors = family(tmp_path)
    merge(base, donors, tmp_path / "right")
    right = contents(tmp_path / "right")
    cache = tmp_path / "cache"

    def again(out: str, folder: Path = cache) -> None:
        shutil.rmtree(tmp_path / "scratch", ignore_errors=True)
        result = apart(MERGE, tmp_path, out, NUMBA_CACHE_DIR=str(folder))
        assert result.returncode == 0 and answered(result.stderr) == "", (out, result.stderr)
        assert contents(tmp_path / out) == right

    again("first")
    compiled = sorted(path for path in cache.rglob("*") if path.is_file())
    assert len(compiled) > 3
    for damage in ("cut", "empty", "flipped near the end", "flipped near the begin", "other"):
        for path in compiled:
            content = bytearray(path.read_bytes())
            if damage == "cut":
                del content[100:]
            elif damage == "empty":
                content.clear()
            elif damage == "other":  # an index of another version of the compiler
                content = bytearray(content.replace(b"0.68", b"0.11"))
            else:  # machine code is in the second half, before it the form it was compiled from
                content[len(content) * (9 if "end" in damage else 2) // 10] ^= 4
            path.write_bytes(content)
        again(damage)
    for number, folder in enumerate((Path("/proc/nowhere"), base / "config.json")):
        again(f"again{number}", folder)
