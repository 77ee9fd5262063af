"""The files of a source, wherever they are: each verified before its path is given out.

>>> with open_files(source, root=Path(), scratch=Path("scratch")) as files:
...     files.all(["config.json"])["config.json"]
...     files.header("pytorch_model-00001-of-00003.bin")   # kilobytes, if the hub is asked
...     files.take("pytorch_model-00001-of-00003.bin")     # gigabytes

A folder of the project is used where it is. Files of the hub are looked for in the hub's own cache
first; else they are downloaded into scratch, the next ones while one is used, and dropped when the
user of a file says that it is done with it.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from remerge.errors import SourceError
from remerge.progress import Bar, track
from remerge.sources.pinned import Source, local_files, verify_file
from remerge.tensors.pickles import open_pickle
from remerge.tensors.safetensors import TensorInfo, read_header

if TYPE_CHECKING:
    from remerge.sources.hub import Patience, RepoFile

#: How often a waiting thread looks whether its work still stands.
_BEAT_S = 0.2
_WORTH_A_BAR = 10_000_000


@dataclass(frozen=True)
class Delivery:
    """How files of the hub come: none of it changes a byte of any result.

    workers  downloads at a time; each may hold one file of a source in `scratch`
    keep     leave what is downloaded in the hub's own cache
    """

    workers: int = 2
    keep: bool = False
    patience: Patience | None = None


class SourceFiles(Protocol):
    """Files of one source by name."""

    source: Source

    def all(self, names: Iterable[str]) -> dict[str, Path]:
        """Verified paths of small files."""

    def header(self, name: str) -> dict[str, TensorInfo]:
        """Names, types and shapes of the tensors in a weight file; offsets mean nothing."""

    def expect(self, names: Sequence[str]) -> None:
        """Say which large files will be taken, in order, so that they may come early."""

    def take(self, name: str, beat: Callable[[], None] = lambda: None) -> Path:
        """The verified path of a large file; `beat` is called while waiting and may raise."""

    def release(self, name: str) -> None:
        """A taken file is of no more use."""

    def temporary_bytes(self, names: Sequence[str]) -> int:
        """Most bytes that those large files take on disk at a time, beside what is made of them."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def open_files(
    source: Source, *, root: Path, scratch: Path, delivery: Delivery | None = None
) -> SourceFiles:
    """The files of `source`: in its folder under `root`, or from the hub by way of `scratch`."""
    if source.path:
        return LocalFiles(source, root)
    return HubFiles(source, scratch / "downloads", delivery or Delivery())


def read_tensor_table(path: Path, name: str) -> dict[str, TensorInfo]:
    """Names, types and shapes in a weight file at `path` that is called `name` in its source."""
    if name.endswith(".safetensors"):
        return read_header(path)
    return {
        tensor: TensorInfo(tensor, info.dtype, info.shape, path, 0, info.nbytes)
        for tensor, info in open_pickle(path).items()
    }


class LocalFiles:
    """A folder of the project, verified as a whole when it is first asked for a file."""

    def __init__(self, source: Source, root: Path) -> None:
        self.source = source
        self._root = root
        self._found: dict[str, Path] | None = None

    def _files(self) -> dict[str, Path]:
        if self._found is None:
            self._found = local_files(self.source, self._root)
        return self._found

    def all(self, names: Iterable[str]) -> dict[str, Path]:
        """See SourceFiles."""
        return {name: self._files()[name] for name in names}

    def header(self, name: str) -> dict[str, TensorInfo]:
        """See SourceFiles."""
        return read_tensor_table(self._files()[name], name)

    def expect(self, names: Sequence[str]) -> None:
        """Nothing has to come."""

    def take(self, name: str, beat: Callable[[], None] = lambda: None) -> Path:
        """See SourceFiles."""
        return self._files()[name]

    def release(self, name: str) -> None:
        """The project's own files stay."""

    def temporary_bytes(self, names: Sequence[str]) -> int:
        """None: the files are there."""
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""


class HubFiles:
    """Files of a repository at its pinned commit."""

    def __init__(self, source: Source, folder: Path, delivery: Delivery) -> None:
        from remerge.sources import cache
        from remerge.sources.hub import Patience

        self.source = source
        self._where = f"source {source.name!r}"
        self._delivery = delivery
        self._patience = delivery.patience or Patience()
        self._folder = cache.staging() if delivery.keep else folder
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max(8, delivery.workers))
        self._queue: list[str] = []
        self._wanted: dict[str, Future[Path]] = {}
        self._bars = ExitStack()
        self._shown: dict[str, Bar] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cancelled.set()
        self._pool.shutdown(cancel_futures=True)
        self._bars.close()
        if error is None:
            for name in self.source.files:
                shutil.rmtree(self._path(name).parent, ignore_errors=True)

    def all(self, names: Iterable[str]) -> dict[str, Path]:
        """See SourceFiles."""
        names = list(names)
        self._show(names)
        with ThreadPoolExecutor(max(4, self._delivery.workers)) as pool:
            futures = [pool.submit(self._bring, name) for name in names]
            try:
                return {n: f.result() for n, f in zip(names, futures, strict=True)}
            except BaseException:
                self._cancelled.set()
                raise

    def header(self, name: str) -> dict[str, TensorInfo]:
        """See SourceFiles. A server that cannot send a part of a file sends all of it."""
        from remerge.sources.remote import RangesUnsupported, remote_header

        here = self._here(name)
        if here is not None:
            return read_tensor_table(here, name)
        try:
            pin = self.source.files[name]
            return remote_header(
                self._remote(name), pin.size, self._folder, self._where, self._patience
            )
        except RangesUnsupported:
            return read_tensor_table(self.take(name), name)

    def expect(self, names: Sequence[str]) -> None:
        """See SourceFiles."""
        self._show(names)
        with self._lock:
            self._queue = [name for name in names if name not in self._wanted]
        self._start_next()

    def take(self, name: str, beat: Callable[[], None] = lambda: None) -> Path:
        """See SourceFiles. A file that is needed now does not wait for a free worker."""
        with self._lock:
            future = self._start(name)
        while True:
            try:
                return future.result(_BEAT_S)
            except NotYet:
                if future.done():
                    raise
                beat()

    def release(self, name: str) -> None:
        """See SourceFiles. Files of the hub's own cache stay."""
        with self._lock:
            self._wanted.pop(name, None)
        shutil.rmtree(self._path(name).parent, ignore_errors=True)
        self._start_next()

    def temporary_bytes(self, names: Sequence[str]) -> int:
        """See SourceFiles. What has come already is not counted again."""
        sizes = sorted(self.source.files[n].size for n in names if not self._path(n).exists())
        return sum(sizes if self._delivery.keep else sizes[-self._delivery.workers :])

    def _start_next(self) -> None:
        with self._lock:
            while self._queue and len(self._wanted) < self._delivery.workers:
                self._start(self._queue[0])

    def _start(self, name: str) -> Future[Path]:
        if name in self._queue:
            self._queue.remove(name)
        if name not in self._wanted:
            self._wanted[name] = self._pool.submit(self._bring, name)
        return self._wanted[name]

    def _bring(self, name: str) -> Path:
        from remerge.sources import cache
        from remerge.sources.download import download

        pin, remote, target = self.source.files[name], self._remote(name), self._path(name)
        advance = self._shown[name].advance if name in self._shown else lambda _: None
        cached = cache.find(remote)
        if cached is not None:
            verify_file(cached, pin, f"{self._where}: the hub's cache")
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
        return cache.adopt(target, remote, self._where) if self._delivery.keep else target

    def _here(self, name: str) -> Path | None:
        """The file, verified, if no request is needed for it."""
        from remerge.sources import cache

        for path in (cache.find(self._remote(name)), self._path(name)):
            if path is not None and path.exists():
                try:
                    verify_file(path, self.source.files[name], self._where)
                except SourceError:
                    continue
                return path
        return None

    def _remote(self, name: str) -> RepoFile:
        from remerge.sources.hub import RepoFile, repo_type

        source = self.source
        path = f"{source.subfolder}/{name}" if source.subfolder else name
        return RepoFile(source.repo, repo_type(source.kind), source.revision, path)

    def _path(self, name: str) -> Path:
        return self._folder / self.source.files[name].sha256[:16] / Path(name).name

    def _show(self, names: Sequence[str]) -> None:
        """One bar for files that take a while."""
        total = sum(self.source.files[name].size for name in names)
        if total >= _WORTH_A_BAR:
            bar = self._bars.enter_context(track(total, f"download {self.source.name}"))
            self._shown |= dict.fromkeys(names, bar)
