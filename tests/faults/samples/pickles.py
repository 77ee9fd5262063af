"""Torch archives that ask for more than tensors, or lie about them."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

from tests.faults.samples import sample

#: What a pickle that runs would leave in the working folder.
MARK = "a-pickle-ran-here"


def archive(path: Path, program: bytes, data: bytes = b"\0" * 64) -> None:
    """A torch archive of one storage, `data`, around any pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        target.writestr("archive/data.pkl", program)
        target.writestr("archive/byteorder", "little")
        target.writestr("archive/data/0", data)
        target.writestr("archive/version", "3\n")


def tensor_program(
    name: str = "w", size: str = "K\x20\x85", strides: str = "K\x01\x85", count: str = "K\x20"
) -> bytes:
    """The pickle that torch writes for {name: tensor}: parts of the tensor as opcodes."""

    def text(value: str) -> bytes:
        encoded = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(encoded)) + encoded

    latin = "latin-1"
    storage = (
        b"("
        + text("storage")
        + b"ctorch\nHalfStorage\n"
        + text("0")
        + text("cpu")
        + count.encode(latin)
        + b"tQ"
    )
    rebuild = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00"
        + size.encode(latin)
        + strides.encode(latin)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )
    return b"\x80\x02}" + text(name) + rebuild + b"s."


class _Calls:
    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


@sample("pickle")
def calls_os_system(path: Path) -> None:
    """Calls os.system while it is loaded."""
    import os

    archive(path, pickle.dumps({"w": _Calls(os.system, f"touch {MARK}")}, 2))


@sample("pickle")
def calls_eval(path: Path) -> None:
    """Evaluates Python code while it is loaded."""
    archive(path, pickle.dumps({"w": _Calls(eval, f"open({MARK!r}, 'w').close()")}, 2))


@sample("pickle")
def imports_a_class(path: Path) -> None:
    """Imports a class that is no part of a tensor."""
    archive(path, b"\x80\x02}X\x01\x00\x00\x00wcsubprocess\nPopen\ns.")


@sample("pickle")
def storage_beyond_archive(path: Path) -> None:
    """Has a storage of a million numbers in an archive of 64 bytes."""
    archive(path, tensor_program(size="J\x40\x42\x0f\x00\x85", count="J\x40\x42\x0f\x00"))


@sample("pickle")
def stride_zero(path: Path) -> None:
    """Poses as 2^40 numbers by a stride of 0 over two bytes, to fill memory and disk."""
    archive(
        path,
        tensor_program(size="\x8a\x06\0\0\0\0\0\x01\x85", strides="K\x00\x85", count="K\x01"),
        b"\0\0",
    )


@sample("pickle")
def half_a_surrogate(path: Path) -> None:
    """Names a tensor with half of a surrogate pair, which no header can hold."""
    archive(path, tensor_program(name="w\ud800"))


@sample("pickle")
def zip_bomb(path: Path) -> None:
    """Swells from 100 kB to 100 MB when it is read."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("archive/data.pkl", tensor_program())
        target.writestr("archive/data/0", bytes(100_000_000))


@sample("pickle")
def overlapping_records(path: Path) -> None:
    """Lists the same bytes as a hundred records, so that reading all reads them a hundred times."""
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as target:
        target.writestr("archive/data/0", bytes(10_000))
    data = plain.getvalue()
    start = data.index(b"PK\x01\x02")
    entry = data[start : data.index(b"PK\x05\x06")]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 100, 100, 100 * len(entry), start, 0)
    path.write_bytes(data[:start] + entry * 100 + end)


@sample("pickle")
def very_deep(path: Path) -> None:
    """Nests a million lists, to exhaust the stack."""
    archive(path, b"\x80\x02}X\x01\x00\x00\x00w" + b"]" * 1_000_000 + b"a" * 999_999 + b"s.")


@sample("pickle")
def truncated(path: Path) -> None:
    """Ends before its directory does, as a broken download."""
    archive(path, tensor_program())
    path.write_bytes(path.read_bytes()[:-30])


@sample("pickle")
def old_format(path: Path) -> None:
    """Is a bare pickle without an archive, which torch also runs."""
    import os

    path.write_bytes(pickle.dumps(_Calls(os.system, f"touch {MARK}"), 2))
