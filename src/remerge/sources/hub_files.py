"""Files of a hub's repository at its pinned commit; see `files`, whose `open_files` makes these.

Small files lie in a folder of this process alone and go with it. Large ones lie where a later
process finds them: an interrupted download goes on, and only `release` ends it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from remerge.errors import CheckpointError, SourceError
from remerge.files import disk_errors
from remerge.progress import Bar, track
from remerge.sources import cache
from remerge.sources.delivery import Delivery, read_tensor_table, read_values
from remerge.sources.download import download, received_bytes
from remerge.sources.hub import Patience, RepoFile, repo_type, shown_endpoint
from remerge.sources.identity import Identity, copy_verified, require_same, verified_identity
from remerge.sources.pinned import Source
from remerge.sources.remote import RangesUnsupported, remote_header, remote_values
from remerge.tensors.safetensors import TensorInfo

#: How often a waiting thread looks whether its work still stands.
_WAIT_S = 0.2
_WORTH_A_BAR = 10_000_000


class HubFiles:
    """Files of a repository at its pinned commit."""

    def __init__(self, source: Source, folder: Path, delivery: Delivery) -> None:
        self.source = source
        self._where = f"source {source.name!r}"
        self._key = re.sub(r"[^\w.-]", "_", source.name)
        self._delivery = delivery
        self._patience = delivery.patience or Patience()
        self._folder = cache.staging() if delivery.keep else folder
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(delivery.workers)
        self._queue: list[str] = []
        self._wanted: dict[str, Future[Path]] = {}
        self._verified: dict[Path, Identity] = {}
        self._ending = ExitStack()
        self._own: Path | None = None
        self._shown: dict[str, Bar] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cancelled.set()
        self._pool.shutdown(cancel_futures=True)
        self._ending.close()
        self._own = None

    def all(self, names: Iterable[str]) -> dict[str, Path]:
        """See SourceFiles."""
        names = list(names)
        self._show(names)
        own = self._own_folder()
        futures = [self._pool.submit(self._bring_small, name, own / name) for name in names]
        try:
            return {n: f.result() for n, f in zip(names, futures, strict=True)}
        except BaseException:
            self._cancelled.set()
            raise

    def header(self, name: str) -> dict[str, TensorInfo]:
        """See SourceFiles. SourceError where the server cannot send a part of a file."""
        pin, remote = self.source.files[name], self._remote(name)
        for here in (cache.find(remote), self._path(name)):
            if here is not None and here.is_file() and here.stat().st_size == pin.size:
                try:
                    return read_tensor_table(here, name)
                except CheckpointError:
                    continue  # whoever takes it is told, or gets another
        try:
            with disk_errors(f"{self._where}: {name}", self._folder):
                return remote_header(remote, pin.size, self._folder, self._where, self._patience)
        except RangesUnsupported:
            raise SourceError(
                f"{self._where}: {shown_endpoint()} sends {remote.where} as a whole only, so that "
                "nothing of it can be checked before gigabytes move and no download can be resumed;"
                " set HF_ENDPOINT to a hub or mirror that answers range requests"
            ) from None

    def values(self, name: str, tensors: Sequence[str]) -> dict[str, bytes]:
        """See SourceFiles. SourceError for a pickle that is not here."""
        pin, remote = self.source.files[name], self._remote(name)
        for here in (cache.find(remote), self._path(name)):
            if here is not None and here.is_file() and here.stat().st_size == pin.size:
                with contextlib.suppress(CheckpointError, KeyError):
                    return read_values(here, name, tensors)
        if not name.endswith(".safetensors"):
            raise SourceError(
                f"{self._where}: {name}: a quantized pickle can be dequantized only where it is on "
                "this machine; name its folder as the path of the source"
            )
        header = self.header(name)
        wanted = [header[tensor] for tensor in tensors]
        return remote_values(remote, wanted, self._where, self._patience)

    def expect(self, names: Sequence[str]) -> None:
        """See SourceFiles. What was left of files that this source lists no more goes first."""
        known = {self._path(name).parent for name in self.source.files}
        for left in self._folder.glob(f"{self._key}-*"):
            digest = left.name.removeprefix(f"{self._key}-")
            if left not in known and re.fullmatch("[0-9a-f]{16}", digest):
                shutil.rmtree(left, ignore_errors=True)
        self._show(names)
        with self._lock:
            self._queue = [name for name in names if name not in self._wanted]
        self._start_next()

    def take(self, name: str) -> Path:
        """See SourceFiles. A file that is needed now does not wait until another is released."""
        while (path := self.take_within(name, _WAIT_S)) is None:
            pass
        return path

    def take_within(self, name: str, seconds: float) -> Path | None:
        """See SourceFiles."""
        with self._lock:
            future = self._start(name)
        try:
            return future.result(seconds)
        except NotYet:
            # It came just now, or ended with an error of its own.
            return future.result() if future.done() else None

    def unchanged(self, name: str) -> None:
        """See SourceFiles."""
        path = self._wanted[name].result()
        require_same(path, self._verified[path], self._where)

    def release(self, name: str) -> None:
        """See SourceFiles. Files of the hub's own cache stay."""
        with self._lock:
            self._wanted.pop(name, None)
        shutil.rmtree(self._path(name).parent, ignore_errors=True)
        self._start_next()

    def space_for(self, names: Sequence[str], together: int = 1) -> tuple[Path, int]:
        """See SourceFiles. What is here already, in part or in the hub's cache, needs no room."""
        still = sorted(self._still_to_come(name) for name in names)
        if self._delivery.keep:
            return self._folder, sum(still)
        return self._folder, sum(still[-max(together, self._delivery.workers) :])

    def missing_bytes(self) -> int:
        """See SourceFiles."""
        return sum(self._still_to_come(name) for name in self.source.files)

    def _still_to_come(self, name: str) -> int:
        if cache.find(self._remote(name)) is not None:
            return 0
        return max(0, self.source.files[name].size - received_bytes(self._path(name)))

    def _start_next(self) -> None:
        with self._lock:
            while self._queue and len(self._wanted) < self._delivery.workers:
                self._start(self._queue[0])

    def _start(self, name: str) -> Future[Path]:
        if name in self._queue:
            self._queue.remove(name)
        if name not in self._wanted:
            self._wanted[name] = self._pool.submit(self._bring, name, self._path(name))
        return self._wanted[name]

    def _bring_small(self, name: str, target: Path) -> Path:
        """A file of this process alone: the hub's cache is shared with other programs."""
        found = self._bring(name, target)
        if found != target:
            copy_verified(found, self.source.files[name], target, self._where)
        return target

    def _bring(self, name: str, target: Path) -> Path:
        pin, remote = self.source.files[name], self._remote(name)
        advance = self._shown[name].advance if name in self._shown else lambda _: None
        with disk_errors(f"{self._where}: {name}", target.parent):
            cached = cache.find(remote)
            if cached is not None:
                try:
                    where = f"{self._where}: the hub's cache"
                    self._verified[cached] = verified_identity(cached, pin, where)
                except SourceError as error:
                    raise SourceError(f"{error}; remove it, and it is fetched again") from None
                advance(pin.size)
                return cached
            download(
                remote,
                pin,
                target,
                where=self._where,
                patience=self._patience,
                advance=advance,
                cancelled=self._cancelled,
            )
            if self._delivery.keep:
                target = cache.adopt(target, remote, pin.sha256)
            # Once more, from the page cache: it lay there under a name that others can write to.
            self._verified[target] = verified_identity(target, pin, self._where)
            return target

    def _remote(self, name: str) -> RepoFile:
        source = self.source
        path = f"{source.subfolder}/{name}" if source.subfolder else name
        return RepoFile(source.repo, repo_type(source.kind), source.revision, path)

    def _path(self, name: str) -> Path:
        """Where a large file waits to be taken: each source has places of its own."""
        digest = self.source.files[name].sha256[:16]
        return self._folder / f"{self._key}-{digest}" / Path(name).name

    def _own_folder(self) -> Path:
        """For small files, until this source is closed."""
        if self._own is None:
            with disk_errors(self._where, self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                made = tempfile.TemporaryDirectory(
                    dir=self._folder, prefix="small-", ignore_cleanup_errors=True
                )
            self._own = Path(self._ending.enter_context(made))
        return self._own

    def _show(self, names: Sequence[str]) -> None:
        """One bar for files that take a while."""
        total = sum(self.source.files[name].size for name in names)
        if total >= _WORTH_A_BAR:
            bar = self._ending.enter_context(track(total, f"download {self.source.name}"))
            self._shown |= dict.fromkeys(names, bar)
