"""What files of a source are asked for, wherever they are: see `files` and `hub_files`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from remerge.sources.pickles import open_pickle
from remerge.sources.pinned import Source
from remerge.tensors.checkpoint import raw_bytes
from remerge.tensors.safetensors import TensorInfo, read_header

if TYPE_CHECKING:
    from remerge.sources.hub import Patience


@dataclass(frozen=True)
class Delivery:
    """How files of the hub come: none of it changes a byte of any result.

    workers  large files at a time, on their way or here, in `scratch` or the hub's cache
    keep     leave what is downloaded in the hub's own cache
    """

    workers: int = 2
    keep: bool = False
    patience: Patience | None = None


class SourceFiles(Protocol):
    """Files of one source by name."""

    source: Source

    def all(self, names: Iterable[str]) -> dict[str, Path]:
        """Small files, verified, at paths that hold the bytes that were hashed until the end."""

    def header(self, name: str) -> dict[str, TensorInfo]:
        """Names, types and shapes of the tensors in a weight file; offsets mean nothing."""

    def values(self, name: str, tensors: Sequence[str]) -> dict[str, bytes]:
        """The bytes of small tensors in a weight file; believed until the file is taken."""

    def expect(self, names: Sequence[str]) -> None:
        """Say which large files will be taken, in order, so that they may come early."""

    def take(self, name: str) -> Path:
        """The verified path of a large file, which is awaited."""

    def take_within(self, name: str, seconds: float) -> Path | None:
        """As `take`; None if the file does not come in that time."""

    def unchanged(self, name: str) -> None:
        """SourceError unless a taken file is still the one that was verified."""

    def release(self, name: str) -> None:
        """A taken file is of no more use."""

    def space_for(self, names: Sequence[str], together: int = 1) -> tuple[Path, int]:
        """Where those large files will lie, and the most bytes still to come there at a time.

        together  so many of them are in use at once
        """

    def missing_bytes(self) -> int:
        """How much of the source's files is not on this machine."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def read_tensor_table(path: Path, name: str) -> dict[str, TensorInfo]:
    """Names, types and shapes in a weight file at `path` that is called `name` in its source."""
    if name.endswith(".safetensors"):
        return read_header(path)
    return {
        tensor: TensorInfo(tensor, info.dtype, info.shape, path, 0, info.nbytes)
        for tensor, info in open_pickle(path).items()
    }


def read_values(path: Path, name: str, tensors: Sequence[str]) -> dict[str, bytes]:
    """The bytes of tensors in a weight file at `path` that is called `name` in its source."""
    if name.endswith(".safetensors"):
        header = read_header(path)
        return {tensor: raw_bytes(header[tensor]).tobytes() for tensor in tensors}
    pickled = open_pickle(path)
    return {tensor: pickled[tensor].bytes_u8().tobytes() for tensor in tensors}
