"""The files of a source, wherever they are: each verified before its path is given out.

>>> with open_files(source, root=Path(), scratch=Path("scratch")) as files:
...     files.all(["config.json"])["config.json"]
...     files.header("pytorch_model-00001-of-00003.bin")   # kilobytes, if the hub is asked
...     files.take("pytorch_model-00001-of-00003.bin")     # gigabytes

A folder of the project is used where it is. Files of the hub are looked for in the hub's own cache
first; else they are downloaded into scratch, the next ones while one is used, and dropped when the
user of a file says that it is done with it (`hub_files`). Headers may be read before their file is
verified: what is learned from one is believed only until the file is taken, which verifies it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from remerge.sources.delivery import Delivery, SourceFiles, read_tensor_table, read_values
from remerge.sources.identity import Identity, copy_verified, require_same, verified_identity
from remerge.sources.pinned import Source, local_paths
from remerge.tensors.safetensors import TensorInfo


def open_files(
    source: Source, *, root: Path, scratch: Path, delivery: Delivery | None = None
) -> SourceFiles:
    """The files of `source`: in its folder under `root`, or from the hub by way of `scratch`."""
    if source.path:
        return LocalFiles(source, root)
    from remerge.sources.hub_files import HubFiles

    return HubFiles(source, scratch / "downloads", delivery or Delivery())


class LocalFiles:
    """A folder of the project; all of its files must be there, each is verified when it is used."""

    def __init__(self, source: Source, root: Path) -> None:
        self.source = source
        self._root = root
        self._paths: dict[str, Path] = {}
        self._verified: dict[str, Identity] = {}
        self._ending = ExitStack()

    def _found(self, name: str) -> Path:
        self._paths = self._paths or local_paths(self.source, self._root)
        return self._paths[name]

    def all(self, names: Iterable[str]) -> dict[str, Path]:
        """See SourceFiles. Copies, in a folder of this process alone."""
        where = f"source {self.source.name!r}"
        folder = Path(self._ending.enter_context(tempfile.TemporaryDirectory(prefix="remerge-")))
        return {
            name: copy_verified(self._found(name), self.source.files[name], folder / name, where)
            for name in names
        }

    def header(self, name: str) -> dict[str, TensorInfo]:
        """See SourceFiles."""
        return read_tensor_table(self._found(name), name)

    def values(self, name: str, tensors: Sequence[str]) -> dict[str, bytes]:
        """See SourceFiles."""
        return read_values(self._found(name), name, tensors)

    def expect(self, names: Sequence[str]) -> None:
        """Nothing has to come."""

    def take_within(self, name: str, seconds: float) -> Path:
        """See SourceFiles."""
        return self.take(name)

    def take(self, name: str) -> Path:
        """See SourceFiles."""
        path = self._found(name)
        if name not in self._verified:
            pin = self.source.files[name]
            self._verified[name] = verified_identity(path, pin, f"source {self.source.name!r}")
        return path

    def unchanged(self, name: str) -> None:
        """See SourceFiles."""
        require_same(self._found(name), self._verified[name], f"source {self.source.name!r}")

    def release(self, name: str) -> None:
        """The project's own files stay."""

    def space_for(self, names: Sequence[str], together: int = 1) -> tuple[Path, int]:
        """None: the files are there."""
        return self._root, 0

    def missing_bytes(self) -> int:
        """None."""
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()
