"""Rows 1 to 8: whatever ends a stage's process, the next run goes on from there."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.conftest import Built
from tests.faults.made import left_behind
from tests.faults.rows import fault

#: Stages as `dvc.yaml` names them, and their outputs.
SIX = {
    "fetch": ("fetch@sorting", "models/sorting"),
    "bake_loras": ("bake_loras@lookup", "baked/lookup"),
    "ties_p1": ("ties_p1", "merged/p1"),
    "ties_p2": ("ties_p2", "merged/p2"),
    "gradient": ("gradient", "merged/final"),
    "quantize_eval": ("quantize_eval@gguf_f16", "quantized/gguf_f16"),
}
TRIES = 8


def _rows(test: Callable[..., None]) -> Callable[..., None]:
    for number, stage in enumerate(SIX, 1):
        whole = stage == "quantize_eval"
        fault(
            number,
            f"SIGKILL at a random moment of the work of {stage}",
            sees="DVC's line that the stage failed, or the shell's `Killed`; no half output under "
            "a final name",
            lost="the half-written format: it is one file" if whole else "nothing",
            then="`dvc repro` writes the format anew, to the same `dvc.lock`"
            if whole
            else "`dvc repro` makes the shards that are missing and no other, to the same "
            "`dvc.lock`",
        )(test)
    return test


def forget(built: Built, out: str) -> None:
    """Make `dvc repro` run the stage of `out` again: neither its cache nor its history has it."""
    lock = json.loads(built.project.run("python", "-c", _LOCK_AS_JSON))
    digest = lock[out]
    (built.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).unlink(missing_ok=True)
    shutil.rmtree(built.folder / ".dvc/cache/runs", ignore_errors=True)
    shutil.rmtree(built.folder / out, ignore_errors=True)


_LOCK_AS_JSON = """
import json, yaml
stages = yaml.safe_load(open("dvc.lock"))["stages"].values()
print(json.dumps({out["path"]: out["md5"] for s in stages for out in s.get("outs", ())}))
"""


def begun(built: Built, stage: str) -> bool:
    """Whether work has left something: a finished shard, or a format that is being written."""
    if stage == "quantize_eval":
        return any((built.folder / "quantized").rglob("*.partial"))
    return bool(finished(built))


def published(built: Built, out: str) -> bool:
    """Whether the output is whole: its manifest is written last, or appears with all the rest."""
    return (built.folder / out / "manifest.json").exists()


def met_at_work(built: Built, stage: str, *command: str) -> subprocess.Popen[str]:
    """A build, at the moment in which the stage's work has begun to leave something."""
    started = built.start(*command)
    built.wait_for(f"remerge.stages.{stage}", started)
    while not begun(built, stage) and started.poll() is None:
        time.sleep(0.0005)
    return started


def finished(built: Built) -> dict[str, tuple[int, int]]:
    """The finished shards in scratch: what a file that was written anew would have otherwise."""
    found = {}
    for record in (built.folder / "scratch").glob("*/*.done.json"):
        shard = record.with_name(record.name.removesuffix(".done.json"))
        with suppress(FileNotFoundError):
            found[shard.name] = (shard.stat().st_ino, shard.stat().st_mtime_ns)
    return found


@pytest.mark.full
@pytest.mark.parametrize("stage", SIX)
@_rows
def test_a_killed_stage_is_made_again_with_the_same_lock(built: Built, stage: str) -> None:
    _, out = SIX[stage]
    for _ in range(TRIES):  # until one is met in the midst of its work, before it has published
        forget(built, out)
        command = met_at_work(built, stage, "dvc", "repro")
        time.sleep(random.uniform(0, 0.005))
        built.kill_all()
        command.wait()
        if not published(built, out):
            break
        built.project.run("dvc", "repro")
    else:
        raise AssertionError(f"{stage} was always done before it could be killed")
    kept = finished(built)
    assert kept or stage == "quantize_eval"
    assert built.read_lock() == built.lock
    built.project.run("dvc", "repro")
    assert built.read_lock() == built.lock
    for name, identity in kept.items():
        made = (built.folder / out / name).stat()
        assert (made.st_ino, made.st_mtime_ns) == identity, f"{name} was made twice"
    for top in ("models", "baked", "merged", "quantized"):
        assert not list(left_behind(built.folder / top))
    assert built.project.run("dvc", "status", "-q") == ""


def interrupted(built: Built, send: Callable[[int], None]) -> None:
    """The signal comes while shards are made: a line, no process, nothing half done, all kept."""
    for _ in range(TRIES):
        forget(built, "merged/p1")
        command = met_at_work(built, "ties_p1", "dvc", "repro", "ties_p1")
        send(command.pid)
        told, _ = command.communicate(timeout=60)
        wait_until_nothing_runs(built)
        if not published(built, "merged/p1"):
            break
        built.project.run("dvc", "repro", "ties_p1")
    else:
        raise AssertionError("the stage was always done before the signal came")
    assert "interrupted; finished shards are kept, run it again to go on" in told
    assert "remerge" not in told.partition("Traceback")[2]
    assert built.read_lock() == built.lock
    assert not list(built.folder.glob("scratch/*/.*.partial"))
    kept = finished(built)
    assert kept
    built.project.run("dvc", "repro", "ties_p1")
    assert built.read_lock() == built.lock
    for name, identity in kept.items():
        made = (built.folder / "merged/p1" / name).stat()
        assert (made.st_ino, made.st_mtime_ns) == identity, f"{name} was made twice"


def wait_until_nothing_runs(built: Built) -> None:
    deadline = time.monotonic() + 20
    while built.running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not built.running()


@fault(
    7,
    "SIGINT (Ctrl-C) to `dvc repro`",
    sees="`interrupted; finished shards are kept, run it again to go on`",
    then="goes on from the finished shards, to the same `dvc.lock`",
)
@pytest.mark.full
def test_ctrl_c_ends_cleanly_and_leaves_no_process(built: Built) -> None:
    interrupted(built, lambda process: os.killpg(process, signal.SIGINT))


@fault(
    8,
    "SIGTERM to `dvc repro`, whose end is a SIGTERM to the stage",
    sees="the same line; no process stays behind",
    then="goes on from the finished shards, to the same `dvc.lock`",
)
@pytest.mark.full
def test_sigterm_ends_cleanly_and_leaves_no_process(built: Built) -> None:
    interrupted(built, lambda process: os.kill(process, signal.SIGTERM))


def stage_below(process: int, stage: str) -> Iterator[int]:
    """Processes below `process` that are to be the stage, its shell included."""
    with suppress(OSError):
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            if stage in Path(f"/proc/{child}/cmdline").read_text():
                yield int(child)


def begun_anew(built: Built) -> subprocess.Popen[str]:
    """A build of the gradient merge, at the moment in which its stage's process appears."""
    shutil.rmtree(built.folder / "merged/final", ignore_errors=True)
    dvc = built.start("dvc", "repro", "-f", "-s", "gradient")
    while not list(stage_below(dvc.pid, "remerge.stages.gradient")) and dvc.poll() is None:
        time.sleep(0.0005)
    return dvc


def seconds_to_publish(built: Built) -> float:
    """How long the stage takes from the appearance of its process to that of its output."""
    dvc, began = begun_anew(built), time.monotonic()
    while not (built.folder / "merged/final").exists() and dvc.poll() is None:
        time.sleep(0.0005)
    seconds = time.monotonic() - began
    told, _ = dvc.communicate()
    assert dvc.returncode == 0, told
    return seconds


@pytest.mark.full
@pytest.mark.parametrize("shell", ["/bin/sh", "one that waits"])
def test_a_dvc_killed_alone_leaves_no_stage_that_publishes(
    built: Built, tmp_path: Path, shell: str
) -> None:
    """A shell may turn into the stage, or wait for it and outlive the dvc that was killed."""
    waits = tmp_path / "waits"
    waits.write_text('#!/bin/sh\n/bin/sh "$@"\nexit $?\n')
    waits.chmod(0o755)
    built.project.env["SHELL"] = shell if shell.startswith("/") else str(waits)
    try:
        # Once its stage is done, dvc writes its lock in place, and a kill may cut that short.
        soonest = min(seconds_to_publish(built) for _ in range(2))
        for share in (0.0, 0.01, 0.03, 0.08, 0.15, 0.25, 0.4, 0.55):
            dvc = begun_anew(built)
            time.sleep(share * soonest)
            done = (built.folder / "merged/final").exists()
            dvc.kill()
            told, _ = dvc.communicate()
            wait_until_nothing_runs(built)
            assert done or not (built.folder / "merged/final").exists(), (share, told)
            assert "Traceback" not in told
            assert built.read_lock() == built.lock
    finally:
        del built.project.env["SHELL"]
