"""One file from the hub to the disk: resumed, retried, hashed on the way, kept only if it is right.

>>> download(file, pin, target, where="source 'base'", patience=Patience())

What has arrived lies under a temporary name beside the target. An interrupted download goes on from
there, in this process or in a later one; the target's name stands for a file whose digest matched.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import httpx

from remerge.errors import RemergeError, SourceError
from remerge.sources.hub import (
    HubError,
    Patience,
    RepoFile,
    explain,
    get,
    is_transient,
    status_of,
)
from remerge.sources.pinned import PinnedFile, verify_file
from remerge.sources.requests import blocks

_CHUNK = 1 << 20
_BEAT_S = 0.2
#: New bytes in one attempt that count as progress.
_PROGRESS = 1 << 16
_RANGE_NOT_SATISFIABLE = 416


class Cancelled(Exception):
    """The work that wanted the file has ended."""


@dataclass
class _Received:
    """What of a file is on disk: an open file, its length, the digest so far."""

    file: BinaryIO
    size: int = 0
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.size, self.sha256 = 0, hashlib.sha256()

    def recover(self, limit: int) -> None:
        """Hash what an earlier attempt left."""
        self.file.seek(0, os.SEEK_END)
        if self.file.tell() > limit:
            self.restart()
        self.file.seek(0)
        self.size, self.sha256 = 0, hashlib.sha256()
        while block := self.file.read(_CHUNK):
            self.sha256.update(block)
            self.size += len(block)

    def append(self, block: bytes) -> None:
        self.file.write(block)
        self.sha256.update(block)
        self.size += len(block)


def download(
    file: RepoFile,
    pin: PinnedFile,
    target: Path,
    *,
    where: str,
    patience: Patience,
    advance: Callable[[int], None] = lambda _: None,
    cancelled: threading.Event | None = None,
) -> None:
    """Make `target` the file that `pin` describes.

    advance  told of bytes as they count towards the whole; negative when some have to come again

    SourceError, naming both digests or both sizes, for a file that differs; nothing of it is kept.
    SourceError too when the hub refuses, or fails `patience.attempts` times without progress.
    """
    cancelled = cancelled or threading.Event()
    partial = _partial(target)
    with _locked(partial, cancelled) as opened:
        if target.exists():
            try:
                verify_file(target, pin, where)
            except RemergeError:
                target.unlink()  # damaged since it came: once more
            else:
                partial.unlink()
                advance(pin.size)
                return
        received = _Received(opened)
        received.recover(pin.size)
        advance(received.size)
        inherited = received.size > 0
        try:
            while True:
                _receive(file, pin, received, where, patience, advance, cancelled)
                found = received.sha256.hexdigest()
                if found == pin.sha256:
                    break
                advance(-received.size)
                received.restart()
                if not inherited:
                    raise SourceError(
                        f"{where}: {file.where} has SHA-256 {found}, pinned is {pin.sha256}; "
                        "nothing of it is kept"
                    )
                inherited = False  # what lay there may be at fault: once more from the start
            opened.flush()
            os.fsync(opened.fileno())
            partial.replace(target)
        finally:
            if received.size == 0:
                partial.unlink(missing_ok=True)


def received_bytes(target: Path) -> int:
    """How much of a file that is or will be at `target` is here."""
    for path in (target, _partial(target)):
        if path.exists():
            return path.stat().st_size
    return 0


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


@contextmanager
def _locked(path: Path, cancelled: threading.Event) -> Iterator[BinaryIO]:
    """`path`, open for reading and appending, for this process alone.

    Another process may want the same file. When it lets go, what it held may have been renamed or
    removed: the lock counts only on what the path names then.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            opened = _open_partial(path)
        except FileNotFoundError:
            continue  # the folder went since
        with opened:
            while True:
                try:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if cancelled.wait(_BEAT_S):
                        raise Cancelled from None
            try:
                same = os.path.samestat(os.fstat(opened.fileno()), path.stat())
            except FileNotFoundError:
                continue
            if same:
                yield opened
                return


def _open_partial(path: Path) -> BinaryIO:
    """`path` for reading and appending: a file of ours alone, not a link to another."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        opened = os.fdopen(os.open(path, flags, 0o644), "a+b")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise SourceError(f"{path}: is a link, in the place of a download; remove it") from None
    status = os.fstat(opened.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        opened.close()
        raise SourceError(f"{path}: is no file of its own, in the place of a download; remove it")
    return opened


def _receive(
    file: RepoFile,
    pin: PinnedFile,
    received: _Received,
    where: str,
    patience: Patience,
    advance: Callable[[int], None],
    cancelled: threading.Event,
) -> None:
    """Bring `received` to the pinned size."""
    failures, furthest = 0, received.size
    while received.size < pin.size:
        failed: Exception | None = None
        try:
            _stream(file, pin, received, where, advance, cancelled)
            reason = f"ended after {received.size} of {pin.size} bytes"
        except HubError as error:
            if status_of(error) == _RANGE_NOT_SATISFIABLE and received.size:
                reason = "answered 416 to what is here"
                advance(-received.size)
                received.restart()
            elif not is_transient(error):
                raise explain(error, file.repo, file.revision, file.path, where) from None
            else:
                failed = error
                status = status_of(error)
                if status:
                    reason = f"answered {status}"
                elif isinstance(error, httpx.ReadTimeout):
                    reason = "came too slowly"
                else:
                    reason = f"failed with {type(error).__name__}"
        if received.size >= pin.size:
            return
        # A server that sends a byte and breaks off makes no progress.
        failures = 0 if received.size - furthest >= _PROGRESS else failures + 1
        if failures == 0:
            furthest = received.size
        if failures >= patience.attempts:
            raise SourceError(
                f"{where}: {file.where} {reason}, {failures} times in a row; run it again to go on "
                "from there"
            )
        if cancelled.wait(patience.wait_s(failures, failed, f"{where}: {file.where}")):
            raise Cancelled


def _stream(
    file: RepoFile,
    pin: PinnedFile,
    received: _Received,
    where: str,
    advance: Callable[[int], None],
    cancelled: threading.Event,
) -> None:
    """One request from where we are to the end."""
    with get(file, f"{received.size}-" if received.size else "") as response:
        if response.status_code != httpx.codes.PARTIAL_CONTENT and received.size:
            advance(-received.size)
            received.restart()
        total = _total(response)
        if total is not None and total != pin.size:
            received.restart()
            raise SourceError(
                f"{where}: {file.where} has {total} bytes, pinned are {pin.size}; nothing of "
                "it is kept"
            )
        for block in blocks(response):  # as they come: a broken connection loses none
            if cancelled.is_set():
                raise Cancelled
            if received.size + len(block) > pin.size:
                received.restart()
                raise SourceError(
                    f"{where}: {file.where} goes on after the {pin.size} bytes pinned; nothing of "
                    "it is kept"
                )
            received.append(block)
            advance(len(block))


def _total(response: httpx.Response) -> int | None:
    """Size of the whole file, as the server states it."""
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        stated = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        stated = response.headers.get("Content-Length", "")
    return int(stated) if stated.isdecimal() and len(stated) < 20 else None
