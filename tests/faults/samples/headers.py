"""safetensors files whose headers lie."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.samples import sample


def file(path: Path, header: bytes | dict[str, object], data: bytes = b"") -> None:
    """A safetensors file of any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(shape: object, begin: object, end: object, dtype: str = "F16") -> dict[str, object]:
    """One tensor's entry."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@sample("safetensors")
def length_beyond_file(path: Path) -> None:
    """Gives the header a length of 2^63 bytes."""
    path.write_bytes((2**63).to_bytes(8, "little") + b"{}")


@sample("safetensors")
def hundred_megabytes_of_spaces(path: Path) -> None:
    """Has a header of more than 100 MB, spaces but for two characters."""
    with path.open("wb") as target:
        target.write((100_000_001).to_bytes(8, "little") + b"{" + b" " * 99_999_999 + b"}")


@sample("safetensors")
def duplicate_keys(path: Path) -> None:
    """Gives a tensor twice, so that two readers see two models."""
    one = json.dumps(entry([1], 0, 2))
    file(path, f'{{"a": {one}, "a": {one}}}'.encode(), b"\0\0")


@sample("safetensors")
def late_duplicate_among_many(path: Path) -> None:
    """Has 200,000 keys and the last one twice, slow for a reader that searches for it."""
    keys = ", ".join(f'"{i}": 0' for i in range(200_000))
    file(path, f'{{{keys}, "199999": 0}}'.encode())


@sample("safetensors")
def overlapping(path: Path) -> None:
    """Lets two tensors share bytes."""
    file(path, {"a": entry([2], 0, 4), "b": entry([2], 2, 6)}, b"\0" * 6)


@sample("safetensors")
def end_before_begin(path: Path) -> None:
    """Has data that end before they begin."""
    file(path, {"a": entry([2], 4, 0)}, b"\0" * 4)


@sample("safetensors")
def hole(path: Path) -> None:
    """Leaves bytes that belong to no tensor, where anything may hide."""
    file(path, {"a": entry([1], 0, 2), "b": entry([1], 4, 6)}, b"\0" * 6)


@sample("safetensors")
def bytes_after_the_end(path: Path) -> None:
    """Goes on after the last tensor."""
    file(path, {"a": entry([1], 0, 2)}, b"\0" * 600)


@sample("safetensors")
def overflowing_shape(path: Path) -> None:
    """Has a shape whose product is 0 in 64 bits."""
    file(path, {"a": entry([2**32, 2**32], 0, 0)})


@sample("safetensors")
def negative_shape(path: Path) -> None:
    """Has negative dimensions with a positive product."""
    file(path, {"a": entry([-1, -2], 0, 4)}, b"\0" * 4)


@sample("safetensors")
def fractional_shape(path: Path) -> None:
    """Has a dimension of 1.0, and one that is true."""
    file(path, {"a": entry([1.0, True], 0, 2)}, b"\0\0")


@sample("safetensors")
def endless_number(path: Path) -> None:
    """Has an offset of 100,000 digits."""
    file(
        path, b'{"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, ' + b"9" * 100_000 + b"]}}"
    )


@sample("safetensors")
def unknown_dtype(path: Path) -> None:
    """Has a number type that does not exist."""
    file(path, {"a": entry([1], 0, 2, "F17")}, b"\0\0")


@sample("safetensors")
def invalid_utf8(path: Path) -> None:
    """Is no UTF-8."""
    file(path, b'{"\xff\xfe": {}}')


@sample("safetensors")
def half_a_surrogate(path: Path) -> None:
    """Names a tensor with half of a surrogate pair, which can be read but not written."""
    file(path, {"\ud800": entry([1], 0, 2)}, b"\0\0")


@sample("safetensors")
def terminal_escape(path: Path) -> None:
    """Hides its fault behind a name that clears the terminal and says that all is well."""
    file(path, {"\x1b[2J\x1b[32mall is well\x07": entry([1], 0, 4)}, b"\0" * 4)


@sample("safetensors")
def very_deep(path: Path) -> None:
    """Nests 100,000 lists."""
    file(path, b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@sample("safetensors")
def a_list(path: Path) -> None:
    """Is JSON but no object."""
    file(path, b"[1, 2]")


@sample("safetensors")
def empty(path: Path) -> None:
    """Is empty."""
    path.write_bytes(b"")


@sample("safetensors, legal")
def unordered_offsets(path: Path) -> None:
    """Lists tensors in another order than that of their bytes, which the format allows."""
    file(
        path,
        {"z": entry([1], 4, 6), "a": entry([1], 0, 2), "m": entry([1], 2, 4)},
        b"\1\0\2\0\3\0",
    )
