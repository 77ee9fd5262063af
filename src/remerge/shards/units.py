"""Running a plan: each output shard is a unit, a pure function of plan and inputs to one file.

>>> records = build_shards(plan, folder, threads=8)

Threads take tensors one by one; a tensor's results are written at its known place in the file as
they come, and hashed on the way. What is held in memory is a few blocks a thread, however large
the model. A shard is flushed and renamed when its last tensor is done, and a small record beside it
lets the next attempt take it over after checking its digests.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from remerge.errors import ToolError
from remerge.files import create, publish, temporary_path
from remerge.progress import Bar, track
from remerge.shards.writeback import start_writeback
from remerge.tensors.json_files import write_json
from remerge.tensors.layout import OutputTensor, Shard
from remerge.tensors.safetensors import TensorInfo
from remerge.threads import require_ieee_arithmetic

#: Elements a call of a kernel; one result buffer a thread of this many elements.
CHUNK = 1 << 18
#: Bytes asked for ahead of one input tensor: enough to keep a disk busy.
READ_AHEAD = 1 << 28
#: Bytes of a tensor that are written before the disk is asked to begin on them.
_WRITEBACK = 1 << 24
#: Finished shards that may wait for the disk before the threads wait too.
_UNFLUSHED = 8
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

#: A tensor's little-endian bytes in order, then its statistics. None: nothing yet, and the work may
#: be stopped here.
Chunks = Generator[np.ndarray | None, None, dict[str, Any]]


class Plan(Protocol):
    """What every merge provides: its files, and how one tensor is computed."""

    @property
    def label(self) -> str:
        """What the progress bar and error messages call this work."""

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The files to write."""

    def reads(self, tensor: OutputTensor) -> Sequence[TensorInfo]:
        """The input tensors that `compute` maps for `tensor`, as far as they are known before."""

    def compute(self, tensor: OutputTensor) -> Chunks:
        """Yield the tensor's bytes; an array is used before the next is asked for."""


@dataclass(frozen=True)
class TensorRecord:
    """A finished tensor: `sha256` of its little-endian bytes, and what was observed on the way."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    statistics: dict[str, Any] = field(default_factory=dict)


class _ShardFile:
    """A shard under construction: tensors arrive in any order, each at its own place."""

    def __init__(self, shard: Shard, folder: Path) -> None:
        self.shard = shard
        self.path = folder / shard.file
        self.temporary = temporary_path(self.path)
        self.records: dict[str, TensorRecord] = {}
        self._offsets = shard.offsets()
        self._descriptor = -1
        self._lock = threading.Lock()

    def open(self) -> None:
        """Create the temporary file at full size on first use."""
        with self._lock, _writing(self.path):
            if self._descriptor < 0:
                self._descriptor = create(self.temporary)
                os.posix_fallocate(self._descriptor, 0, self.shard.nbytes)
                os.pwrite(self._descriptor, self.shard.header, 0)

    def write(self, tensor: OutputTensor, position: int, data: memoryview) -> None:
        begin = self._offsets[tensor.name]
        offset, end = begin + position, position + len(data)
        with _writing(self.path):
            while data:
                written = os.pwrite(self._descriptor, data, offset)
                data, offset = data[written:], offset + written
        asked = position - position % _WRITEBACK
        if end - asked >= _WRITEBACK or end == tensor.nbytes:
            start_writeback(self._descriptor, begin + asked, end - asked)

    def add(self, record: TensorRecord) -> bool:
        """Note a finished tensor; True for the one that completes the shard."""
        with self._lock:
            self.records[record.name] = record
            return len(self.records) == len(self.shard.tensors)

    def finish(self) -> None:
        """Flush, leave the record for a later attempt, rename.

        The record comes first: on a disk that is filling up, a shard under its final name is one
        that the next attempt can take over.
        """
        with _writing(self.path):
            os.fsync(self._descriptor)
            self.close()
            write_json(record_path(self.path), [asdict(r) for r in self.in_order()])
            publish(self.temporary, self.path)

    def in_order(self) -> list[TensorRecord]:
        return [self.records[tensor.name] for tensor in self.shard.tensors]

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        self.close()
        with suppress(FileNotFoundError):
            self.temporary.unlink()


def record_path(shard_path: Path) -> Path:
    """Where the digests of a finished shard stand."""
    return shard_path.with_name(f"{shard_path.name}.done.json")


class _Stopped(Exception):
    """Another thread failed, or the user interrupted."""


class _NotWritten(Exception):
    """A result that could not be written, which is another matter than an input unread."""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _NotWritten(path.parent) from error


def build_shards(
    plan: Plan, folder: Path, threads: int, only: Sequence[int] | None = None
) -> list[TensorRecord]:
    """Make the plan's shards (or those numbered in `only`) in `folder`, using `threads` threads.

    Shards that an earlier attempt finished are checked and kept. Returns the records of all tensors
    in the plan's order. On any error, or Ctrl-C, finished shards stay and half-made ones vanish.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.partial"):
            leftover.unlink(missing_ok=True)
    except OSError as error:
        raise _failure(plan.label, f"writing {folder}", error) from error
    chosen = [plan.shards[i] for i in (range(len(plan.shards)) if only is None else only)]
    with track(sum(shard.nbytes for shard in chosen), plan.label) as bar:
        finished = _recover(chosen, folder, threads, bar)
        files = [_ShardFile(s, folder) for s in chosen if s.file not in finished]
        _run(plan, files, threads, bar)
    finished |= {file.shard.file: file.in_order() for file in files}
    return [record for shard in chosen for record in finished[shard.file]]


def _run(plan: Plan, files: list[_ShardFile], threads: int, bar: Bar) -> None:
    stop = threading.Event()
    # Largest first within a shard, so that no thread is left alone with a large tensor at its end.
    order = [(f, t) for f in files for t in sorted(f.shard.tensors, key=lambda t: -t.nbytes)]
    tasks: Iterator[tuple[_ShardFile, OutputTensor]] = iter(order)
    later: Iterator[tuple[_ShardFile, OutputTensor]] = iter(order[threads:])
    take = threading.Lock()
    flushes: list[Future[None]] = []
    # Each is an open file and dirty pages; a slow disk must not let them pile up without end.
    unflushed = threading.Semaphore(_UNFLUSHED)

    def flush(file: _ShardFile) -> None:
        try:
            file.finish()
        except BaseException:
            stop.set()
            raise
        finally:
            unflushed.release()

    def work(flusher: ThreadPoolExecutor) -> None:
        require_ieee_arithmetic()
        while not stop.is_set():
            with take:
                task, ahead = next(tasks, None), next(later, None)
            if task is None:
                return
            file, tensor = task
            if ahead is not None:
                _will_need(plan.reads(ahead[1]))
            file.open()
            record = _compute(plan, file, tensor, bar, stop)
            if file.add(record):
                unflushed.acquire()
                flushes.append(flusher.submit(flush, file))

    try:
        for file in files:
            if not file.shard.tensors:
                file.open()
                file.finish()
        with ThreadPoolExecutor(2) as flusher, ThreadPoolExecutor(threads) as pool:
            workers = [pool.submit(work, flusher) for _ in range(threads)]
            try:
                wait(workers, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
        _raise_first([*workers, *flushes])
    except _NotWritten as error:
        cause = error.__cause__
        assert isinstance(cause, OSError)
        raise _failure(plan.label, f"writing {error}", cause) from cause
    except (OSError, MemoryError) as error:
        read = getattr(error, "filename", None) or "an input"
        raise _failure(plan.label, f"reading {read}", error) from error
    finally:
        for file in files:
            file.discard()


def _failure(label: str, what: str, error: OSError | MemoryError) -> ToolError:
    """The error for a disk or a memory that failed while doing `what`."""
    if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
        return ToolError(
            f"{label}: out of memory or address space; allow more, or use fewer threads "
            "(REMERGE_THREADS=1), and run it again: finished shards are kept"
        )
    remedy = "free some space and" if error.errno in _NO_ROOM else "correct that and"
    return ToolError(
        f"{label}: {what}: {error.strerror or error}; {remedy} run it again: finished shards are "
        "kept"
    )


def _will_need(tensors: Sequence[TensorInfo]) -> None:
    """Have `tensors` read from disk while others are computed.

    A mapped file is read when its pages are touched, and a thread that waits for a page computes
    nothing. On a warm cache this costs nothing to speak of.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for info in tensors:
        if info.nbytes:
            descriptor = os.open(info.path, os.O_RDONLY)
            try:
                count = min(info.nbytes, READ_AHEAD)
                os.posix_fadvise(descriptor, info.offset, count, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)


def _raise_first(futures: Sequence[Future[None]]) -> None:
    errors = [e for e in (future.exception() for future in futures) if e is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, _Stopped)):
        raise error


def _compute(
    plan: Plan, file: _ShardFile, tensor: OutputTensor, bar: Bar, stop: threading.Event
) -> TensorRecord:
    digest = hashlib.sha256()
    position = 0

    chunks = plan.compute(tensor)
    while True:
        try:
            chunk = next(chunks)
        except StopIteration as end:
            statistics = end.value
            break
        if stop.is_set():
            raise _Stopped
        if chunk is None:
            continue
        data = chunk.data.cast("B")
        file.write(tensor, position, data)
        digest.update(data)
        position += len(data)
        bar.advance(len(data))
    if position != tensor.nbytes:
        raise AssertionError(f"{tensor.name}: {position} of {tensor.nbytes} bytes were computed")
    return TensorRecord(tensor.name, tensor.dtype, tensor.shape, digest.hexdigest(), statistics)


def _recover(
    shards: Sequence[Shard], folder: Path, threads: int, bar: Bar
) -> dict[str, list[TensorRecord]]:
    """Shards of an earlier attempt whose every byte is still what was computed."""
    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(lambda shard: recover_shard(shard, folder, bar), shards))
    return {s.file: r for s, r in zip(shards, results, strict=True) if r is not None}


def recover_shard(shard: Shard, folder: Path, bar: Bar) -> list[TensorRecord] | None:
    """The records of a finished shard in `folder` if its every byte still has their digests."""
    path = folder / shard.file
    try:
        entries = json.loads(record_path(path).read_text())
        records = [TensorRecord(**{**e, "shape": tuple(e["shape"])}) for e in entries]
        same = [(r.name, r.dtype, r.shape) for r in records] == [
            (t.name, t.dtype, t.shape) for t in shard.tensors
        ]
        if not same or path.stat().st_size != shard.nbytes:
            return None
        with path.open("rb") as file:
            if file.read(len(shard.header)) != shard.header:
                return None
            for record, tensor in zip(records, shard.tensors, strict=True):
                if sha256_of_range(file, tensor.nbytes) != record.sha256:
                    return None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    bar.advance(shard.nbytes)
    return records


def sha256_of_range(file: Any, count: int) -> str:
    """SHA-256 of the next `count` bytes of a binary file."""
    digest = hashlib.sha256()
    while count:
        block = file.read(min(count, 1 << 22))
        if not block:
            break
        digest.update(block)
        count -= len(block)
    return digest.hexdigest()
