"""Headers of weight files that are still on the hub: kilobytes in place of gigabytes.

>>> remote_header(file, size, scratch, where)["model.norm.weight"].shape

A safetensors file begins with its header. A torch archive is a zip: its directory stands at the
end, its pickle is one small record, and the tensors' data are the rest. We ask for the small parts
and lay them into a file of holes of the same size, which reads like the real one, except that every
weight is zero. What is learned here is believed only until the file itself is there and verified.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import httpx

from remerge.errors import CheckpointError, SourceError
from remerge.sources.hub import HubError, Patience, RepoFile, explain, get, patiently
from remerge.sources.pickles import open_pickle
from remerge.sources.requests import blocks
from remerge.tensors.safetensors import HEADER_LIMIT, TensorInfo, parse_header

_TAIL = 1 << 16
_SMALL_RECORD = 16_000_000
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


class RangesUnsupported(Exception):
    """The server sends whole files only."""


def remote_header(
    file: RepoFile, size: int, scratch: Path, where: str, patience: Patience
) -> dict[str, TensorInfo]:
    """Names, types and shapes of the tensors of a remote file of `size` bytes, no true offsets.

    SourceError when the hub refuses, CheckpointError when the file is not a plain checkpoint.
    """
    try:
        if file.path.endswith(".safetensors"):
            return _safetensors_header(file, size, patience)
        return _pickle_header(file, size, scratch, patience)
    except HubError as error:
        raise explain(error, file.repo, file.revision, file.path, where) from None


def remote_values(
    file: RepoFile, tensors: Sequence[TensorInfo], where: str, patience: Patience
) -> dict[str, bytes]:
    """The bytes of small tensors of a remote safetensors file, neighbors in one request."""
    spans: list[list[TensorInfo]] = []
    for tensor in sorted(tensors, key=lambda each: each.offset):
        near = spans and tensor.offset - (spans[-1][-1].offset + spans[-1][-1].nbytes) < _TAIL
        if near and tensor.offset - spans[-1][0].offset < _SMALL_RECORD:
            spans[-1].append(tensor)
        else:
            spans.append([tensor])
    found = {}
    try:
        for span in spans:
            start = span[0].offset
            data = read_range(file, start, span[-1].offset + span[-1].nbytes, patience)
            for tensor in span:
                found[tensor.name] = data[tensor.offset - start :][: tensor.nbytes]
    except HubError as error:
        raise explain(error, file.repo, file.revision, file.path, where) from None
    except RangesUnsupported:
        raise SourceError(f"{where}: {file.where} cannot be read in parts") from None
    return found


def read_range(file: RepoFile, start: int, stop: int, patience: Patience) -> bytes:
    """Bytes [start, stop) of a remote file; RangesUnsupported, or one of `HubError`."""
    if stop <= start:
        return b""
    return patiently(lambda: _read_range(file, start, stop), patience, file.where)


def _read_range(file: RepoFile, start: int, stop: int) -> bytes:
    with get(file, f"{start}-{stop - 1}") as response:
        whole = start == 0 and response.headers.get("Content-Length") == str(stop)
        if response.status_code != httpx.codes.PARTIAL_CONTENT and not whole:
            raise RangesUnsupported
        received = bytearray()
        for block in blocks(response):
            received += block
            if len(received) > stop - start:
                raise RangesUnsupported
    if len(received) != stop - start:
        raise SourceError(f"{file.where}: {len(received)} of the {stop - start} bytes asked came")
    return bytes(received)


def _safetensors_header(file: RepoFile, size: int, patience: Patience) -> dict[str, TensorInfo]:
    path = Path(file.where)
    start = read_range(file, 0, min(size, _TAIL), patience)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > min(HEADER_LIMIT, size - 8):
        raise CheckpointError(f"{path}: does not begin as a safetensors file of {size} bytes does")
    header = start[8 : 8 + length]
    header += read_range(file, 8 + len(header), 8 + length, patience)
    return parse_header(header, path, size)


def _pickle_header(
    file: RepoFile, size: int, scratch: Path, patience: Patience
) -> dict[str, TensorInfo]:
    scratch.mkdir(parents=True, exist_ok=True)
    path = Path(file.where)
    with tempfile.NamedTemporaryFile(dir=scratch, suffix=".bin") as holes:
        os.truncate(holes.fileno(), size)
        tail = max(0, size - _TAIL)
        while True:
            os.pwrite(
                holes.fileno(), read_range(file, tail, min(size, tail + _TAIL), patience), tail
            )
            try:
                records = _records(Path(holes.name), path)
                break
            # An untrusted archive may ask for what the library does not know.
            except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                if tail == 0 or size - tail > _SMALL_RECORD:
                    raise CheckpointError(
                        f"{path}: not a torch archive ({error}); it is damaged, or was saved "
                        "before torch 1.6"
                    ) from None
                tail = max(0, tail - _TAIL)
        ends = [record.header_offset for record in records[1:]] + [size]
        for record, end in zip(records, ends, strict=True):
            small = "/data/" not in record.filename
            if not 0 <= record.header_offset < end or (small and record.file_size > _SMALL_RECORD):
                raise CheckpointError(f"{path}: its directory is not one that torch writes")
            if not small:
                data = _local_header(record)
            else:
                stop = min(end, record.header_offset + record.file_size + _TAIL, tail)
                data = read_range(file, record.header_offset, stop, patience)
            os.pwrite(holes.fileno(), data, record.header_offset)
        try:
            tensors = open_pickle(holes.name)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(holes.name, str(path))) from None
        return {
            name: TensorInfo(name, tensor.dtype, tensor.shape, path, 0, tensor.nbytes)
            for name, tensor in tensors.items()
        }


def _records(holes: Path, path: Path) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(holes) as archive:
        records = sorted(archive.infolist(), key=lambda record: record.header_offset)
    if not records:
        raise CheckpointError(f"{path}: an empty archive")
    return records


def _local_header(record: zipfile.ZipInfo) -> bytes:
    """The header before a record's data, as far as a reader looks at it."""
    name = record.filename.encode()
    return _LOCAL_HEADER.pack(b"PK\x03\x04", *[0] * 8, len(name), 0) + name
