"""Model folders that are named by hand: refused where they are quantized, or dequantized first.

>>> with PlainFolders(scratch, dequantize=True, threads=8) as plain:
...     model = open_checkpoint(plain.folder(Path("models/quantized")))
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from remerge.errors import CheckpointError
from remerge.files import regular_file_size, sha256_of
from remerge.sources.files import LocalFiles
from remerge.sources.intake import COMPANIONS, take_in_model
from remerge.sources.layouts import INDEXES, is_weights
from remerge.sources.pinned import PinnedFile, Source
from remerge.sources.quantized.reading import method_of, require_plain
from remerge.tensors.checkpoint import config_of, open_checkpoint

_SHARD_BYTES = 5_000_000_000


def dequantize_folder(
    folder: Path,
    out: Path,
    *,
    scratch: Path,
    threads: int,
    dtype: str | None = None,
    shard_bytes: int = _SHARD_BYTES,
) -> dict[str, Any]:
    """Write a quantized model as a plain one.

    Args:
        folder: The quantized model.
        out: The folder to make.
        scratch: Where unfinished work is kept for the next attempt.
        threads: How many to use; they change no byte.
        dtype: The type of what was quantized, as torch calls it; None: that of config.json.
        shard_bytes: Size limit of an output file.

    Returns:
        The manifest.

    Raises:
        CheckpointError: The folder is no quantized model, or one that cannot be dequantized.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    used = [n for n in names if n in COMPANIONS or n in INDEXES or is_weights(n)]
    files = {n: PinnedFile(sha256_of(folder / n), regular_file_size(folder / n)) for n in used}
    config = {"dtype": dtype} if dtype else {}
    source = Source(folder.name, "model", files, path=folder.name, config=config, dequantize=True)
    with LocalFiles(source, folder.parent) as opened:
        return take_in_model(opened, out, scratch=scratch, shard_bytes=shard_bytes, threads=threads)


class PlainFolders:
    """Folders of plain weights for model folders; what was dequantized goes with the block.

    scratch     where dequantized models lie meanwhile
    dequantize  whether quantized models are dequantized; else they are refused
    """

    def __init__(self, scratch: Path, *, dequantize: bool, threads: int) -> None:
        self._scratch = scratch
        self._dequantize = dequantize
        self._threads = threads
        self._work = scratch / f"dequantized-{uuid.uuid4().hex}"
        self._found: dict[Path, Path] = {}

    def folder(self, folder: Path) -> Path:
        """Return the folder, or one with its weights dequantized.

        Raises:
            CheckpointError: It is quantized, and that was not asked for or cannot be done.
        """
        if folder not in self._found:
            self._found[folder] = self._plain(folder)
        return self._found[folder]

    def _plain(self, folder: Path) -> Path:
        try:
            tensors = open_checkpoint(folder).tensors
        except (CheckpointError, OSError):
            return folder  # an adapter, a pickle or no model: whoever opens it says so
        config = config_of(folder)
        if not self._dequantize:
            advice = (
                "give --dequantize to merge the values that they stand for (or make them a model "
                "of their own with `remerge dequantize`)"
            )
            require_plain(str(folder), config, tensors, advice)
            return folder
        if method_of(config, tensors) is None:
            return folder
        out = self._work / str(len(self._found)) / folder.resolve().name
        dequantize_folder(folder, out, scratch=self._scratch, threads=self._threads)
        return out

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
