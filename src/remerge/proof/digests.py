"""SHA-256 of parts of files, by all cores, at the speed of the disk.

>>> identify("merged/final").model_id

Each tensor is hashed by one thread; threads take tensors in the order of the files, so a spinning
disk reads forward and a fast one is kept busy. Memory is one buffer a thread.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import local

import numpy as np

from remerge.errors import CheckpointError
from remerge.files import regular_file_size
from remerge.progress import Bar, track
from remerge.proof.contents import read_contents
from remerge.proof.models import PickledInfo, Weights, open_weights, require_one_model
from remerge.sources.pickles import PickledTensor
from remerge.tensors.model_id import model_id
from remerge.tensors.safetensors import TensorInfo
from remerge.threads import thread_count

_BUFFER = 1 << 22


@dataclass(frozen=True)
class Range:
    """`nbytes` bytes of the file `path` from `offset` on, or those of a pickled tensor in it."""

    path: Path
    offset: int
    nbytes: int
    held: PickledTensor | None = None


def whole(path: Path) -> Range:
    """A file from its first to its last byte."""
    return Range(path, 0, regular_file_size(path))


def range_of(info: TensorInfo) -> Range:
    """The bytes of one tensor."""
    held = info.held if isinstance(info, PickledInfo) else None
    return Range(info.path, info.offset, info.nbytes, held)


def sha256_of_ranges(
    ranges: Sequence[Range], threads: int | None = None, label: str = "hashing"
) -> list[str]:
    """SHA-256 of each range, in hexadecimal, in the order given.

    CheckpointError if a file ends before a range does (somebody is changing it).
    """
    return _digests(hashlib.sha256, ranges, threads, label)


def md5_of_files(
    paths: Sequence[Path], threads: int | None = None, label: str = "hashing"
) -> list[str]:
    """MD5 of each file, by which DVC knows it: against accidents, not against forgers."""
    md5 = partial(hashlib.md5, usedforsecurity=False)
    return _digests(md5, [whole(path) for path in paths], threads, label)


def _digests(
    new: Callable[[], hashlib._Hash], ranges: Sequence[Range], threads: int | None, label: str
) -> list[str]:
    order = sorted(range(len(ranges)), key=lambda i: (str(ranges[i].path), ranges[i].offset))
    digests = [""] * len(ranges)
    buffers = local()
    with (
        track(sum(r.nbytes for r in ranges), label) as bar,
        ThreadPoolExecutor(thread_count(threads)) as pool,
    ):

        def work(index: int) -> None:
            if not hasattr(buffers, "block"):
                buffers.block = memoryview(bytearray(_BUFFER))
            digests[index] = _digest(new(), ranges[index], buffers.block, bar)

        try:
            for _ in pool.map(work, order):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return digests


def _digest(digest: hashlib._Hash, span: Range, block: memoryview, bar: Bar) -> str:
    if span.held is not None:
        for piece in np.array_split(span.held.bytes_u8(), span.nbytes // _BUFFER + 1):
            digest.update(piece.data)
            bar.advance(piece.size)
        return digest.hexdigest()
    position, end = span.offset, span.offset + span.nbytes
    try:
        descriptor = os.open(span.path, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"{span.path}: cannot be read ({error.strerror})") from None
    try:
        while position < end:
            count = os.preadv(descriptor, [block[: min(_BUFFER, end - position)]], position)
            if count == 0:
                raise CheckpointError(f"{span.path}: ends at byte {position}, expected {end}")
            digest.update(block[:count])
            position += count
            bar.advance(count)
    except OSError as error:
        raise CheckpointError(f"{span.path}: cannot be read ({error.strerror})") from None
    finally:
        os.close(descriptor)
    return digest.hexdigest()


@dataclass(frozen=True)
class Identity:
    """Who a model is: its id, and the SHA-256 of each tensor's little-endian bytes."""

    model_id: str
    tensors: dict[str, str]


def identify(path: Path | str | Weights, threads: int | None = None) -> Identity:
    """Read the model at `path` once and say who it is; CheckpointError if it is malformed.

    A folder must hold regular files only, and weights of one model (`require_one_model`).

    `threads` (default: all cores) changes the time, never the id.
    """
    if isinstance(path, Weights):
        return _identity(path, threads)
    path = Path(path)
    if not path.is_dir():
        return _identity(open_weights(path), threads)
    contents = read_contents(path)
    contents.require_plain()
    weights = open_weights(path)
    require_one_model(weights, contents.files)
    identity = _identity(weights, threads)
    contents.require_unchanged()
    return identity


def _identity(weights: Weights, threads: int | None) -> Identity:
    infos = list(weights.tensors.values())
    label = f"id {weights.path.name}"
    digests = sha256_of_ranges([range_of(info) for info in infos], threads, label)
    lines = [(i.name, i.dtype, i.shape, d) for i, d in zip(infos, digests, strict=True)]
    return Identity(model_id(lines), {name: digest for name, _, _, digest in lines})
