"""What runs on a node: a look at what the node is and sees, and a unit of work.

Both answer with plain values and never raise what the driver could not name.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from remerge.code import digest_of_all
from remerge.errors import RemergeError
from remerge.files import flush_folder
from remerge.shards.units import Plan, TensorRecord, build_shards, record_path

#: What may be left behind by a unit whose process died; one folder a run of a unit.
UNIT_PREFIX = ".unit-"
_PROBE_READ = 64_000_000
_PROBE_WRITE = 16_000_000


@dataclass(frozen=True)
class Question:
    """What a node is asked before it gets work: paths as the driver sees them."""

    root: str
    folder: str
    nonce: str
    files: Mapping[str, int]


@dataclass(frozen=True)
class Answer:
    """`problem` is empty for a node that can work; rates are in bytes a second."""

    problem: str
    fingerprint: Mapping[str, str]
    read_rate: float = 0.0
    write_rate: float = 0.0


@dataclass(frozen=True)
class UnitReport:
    """The records of a finished shard, or `error`, the name of an error's class and its line."""

    records: tuple[TensorRecord, ...] = ()
    seconds: float = 0.0
    error: tuple[str, str] | None = None


@cache
def fingerprint() -> dict[str, str]:
    """What must be the same on all nodes for the same plan to mean the same bytes."""
    made = {"remerge": digest_of_all()[:16]}
    for name in ("numba", "llvmlite", "numpy"):
        try:
            made[name] = version(name)
        except PackageNotFoundError:
            made[name] = "missing"
    return made | {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """What a node has otherwise than the driver, empty when nothing."""
    return ", ".join(
        f"{name} {there.get(name, 'missing')} (here {here[name]})"
        for name in here
        if there.get(name) != here[name]
    )


def nonce_path(folder: Path, nonce: str) -> Path:
    """Where the driver writes the nonce, and beside which nodes answer it."""
    return folder / f".nonce-{nonce}"


def look(question: Question, node: str) -> Answer:
    """Whether this node sees the driver's files and the driver its; how fast storage is here."""
    try:
        os.chdir(question.root)
        folder = Path(question.folder)
        written = nonce_path(folder, question.nonce)
        if written.read_text() != question.nonce:
            return Answer(f"{written} has other contents there", fingerprint())
        for path, size in question.files.items():
            if Path(path).stat().st_size != size:
                return Answer(f"{path} has another size there", fingerprint())
        written.with_name(f"{written.name}-{node}").write_text(question.nonce)
        read_rate, write_rate = _storage_rates(question, node)
    except OSError as error:
        where = error.filename or question.root
        return Answer(f"{where}: {error.strerror or error}", fingerprint())
    return Answer("", fingerprint(), read_rate, write_rate)


def _storage_rates(question: Question, node: str) -> tuple[float, float]:
    """Bytes a second of one sequential read past the page cache, and of one flushed write."""
    largest = max(question.files, key=lambda path: question.files[path], default=None)
    read_rate = 0.0
    if largest is not None and question.files[largest]:
        amount = min(_PROBE_READ, question.files[largest])
        with Path(largest).open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, amount, os.POSIX_FADV_DONTNEED)
            begin = time.perf_counter()
            left = amount
            while left > 0 and (block := file.read(min(left, 4 << 20))):
                left -= len(block)
            read_rate = amount / (time.perf_counter() - begin)
    path = nonce_path(Path(question.folder), question.nonce)
    path = path.with_name(f"{path.name}-{node}-rate")
    block = bytes(1 << 20)
    begin = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(_PROBE_WRITE >> 20):
            file.write(block)
        os.fsync(file.fileno())
    write_rate = _PROBE_WRITE / (time.perf_counter() - begin)
    path.unlink()
    return read_rate, write_rate


def run_unit(
    plan: Plan, index: int, root: str, folder: str, threads: int, expected: Mapping[str, str]
) -> UnitReport:
    """Make the plan's shard number `index` in `folder`, as the driver at `root` would.

    The shard is made in a folder of this run's own and moved to its place when it is whole and
    flushed, so that a unit that runs twice at once writes one file twice, each time the same.
    """
    begin = time.perf_counter()
    other = differences(expected, fingerprint())
    if other:  # the node joined after the cluster was looked at
        return UnitReport(error=("ToolError", f"has {other}"))
    private = Path(folder) / f"{UNIT_PREFIX}{index:05d}-{uuid.uuid4().hex}"
    try:
        os.chdir(root)
        private.mkdir()
        records = build_shards(plan, private, threads, only=[index])
        done = Path(folder) / plan.shards[index].file
        (private / done.name).replace(done)
        record_path(private / done.name).replace(record_path(done))
        flush_folder(done.parent)
    except RemergeError as error:
        return UnitReport(error=(type(error).__name__, str(error)))
    except OSError as error:
        return UnitReport(error=("ToolError", f"{error.filename or folder}: {error.strerror}"))
    finally:
        shutil.rmtree(private, ignore_errors=True)
    return UnitReport(tuple(records), time.perf_counter() - begin)
