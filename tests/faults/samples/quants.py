"""GGUF and GGML files whose tables lie: counts, lengths, types, places, and other files."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

from tests.faults.samples import Write, sample

_TEXT, _LIST, _NUMBER = 8, 9, 4
_F32, _Q4_0 = 0, 2
#: Of a sparse file: takes no space, and seen as zeros it is a table without end.
_SPARSE = 1 << 40


def text(value: bytes) -> bytes:
    """A text of GGUF."""
    return struct.pack("<Q", len(value)) + value


def entry(key: str, kind: int, value: bytes) -> bytes:
    """An entry of the metadata."""
    return text(key.encode()) + struct.pack("<I", kind) + value


def place(
    name: bytes = b"w", shape: Sequence[int] = (8,), kind: int = _F32, offset: int = 0
) -> bytes:
    """An entry of the table of tensors."""
    numbers = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + numbers + struct.pack("<IQ", kind, offset)


def gguf_bytes(
    entries: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (place(),),
    *,
    counts: tuple[int, int] | None = None,
    version: int = 3,
    data: int = 256,
) -> bytes:
    """A GGUF file with any tables; `counts` claims other numbers of tensors and entries."""
    entries = [entry("general.architecture", _TEXT, text(b"llama")), *entries]
    counted = counts or (len(tensors), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, *counted) + b"".join([*entries, *tensors])
    return head + bytes(-len(head) % 32 + data)


def _gguf(name: str, what: str, content: bytes, *, size: int | None = None) -> None:
    def write(path: Path) -> None:
        path.write_bytes(content)
        if size:
            os.truncate(path, size)

    write.__name__, write.__doc__ = name, what
    sample("gguf table")(write)


_HUGE = 2**60
_gguf("tensors", "Claims 2^60 tensors.", gguf_bytes(counts=(_HUGE, 1)))
_gguf("entries", "Claims 2^60 entries of metadata.", gguf_bytes(counts=(1, _HUGE)))
_gguf("sparse_tensors", "Claims 2^60 tensors in a terabyte of zeros that takes no space.",
      gguf_bytes(counts=(_HUGE, 1)), size=_SPARSE)  # fmt: skip
_gguf("long_key", "Has a key of 2^60 characters.",
      gguf_bytes([struct.pack("<Q", _HUGE)]))  # fmt: skip
_gguf("sparse_key", "Has a key of half a terabyte, in a file that is as long.",
      gguf_bytes([struct.pack("<Q", _SPARSE // 2)]), size=_SPARSE)  # fmt: skip
_gguf("sparse_text", "Has a text of half a terabyte, in a file that is as long.",
      gguf_bytes([entry("general.name", _TEXT, struct.pack("<Q", _SPARSE // 2))]),
      size=_SPARSE)  # fmt: skip
_gguf("sparse_list", "Has a list of 2^36 empty texts in a terabyte of zeros.",
      gguf_bytes([entry("tokenizer.ggml.tokens", _LIST, struct.pack("<IQ", _TEXT, 2**36))]),
      size=_SPARSE)  # fmt: skip
_gguf("long_list", "Has a list of 2^62 numbers.",
      gguf_bytes([entry("tokenizer.ggml.scores", _LIST, struct.pack("<IQ", 6, 2**62))]),
      )  # fmt: skip
_gguf("nested", "Nests 100,000 lists, to overflow the stack.",
      gguf_bytes([entry("a", _LIST, struct.pack("<IQ", _LIST, 1) * 100_000)]))  # fmt: skip
_gguf("type", "Has a value of an unknown type.", gguf_bytes([entry("a", 99, bytes(8))]))
_gguf("key_twice", "Gives an entry twice.",
      gguf_bytes([entry("a", _NUMBER, bytes(4)), entry("a", _NUMBER, bytes(4))]))  # fmt: skip
_gguf("alignment", "Aligns by three bytes.",
      gguf_bytes([entry("general.alignment", _NUMBER, struct.pack("<I", 3))]))  # fmt: skip
_gguf("alignment_of_text", "Gives a text for the alignment.",
      gguf_bytes([entry("general.alignment", _TEXT, text(b"32"))]))  # fmt: skip
_gguf("no_alignment", "Aligns by nothing, a division by zero.",
      gguf_bytes([entry("general.alignment", _NUMBER, bytes(4))]))  # fmt: skip
_gguf("beyond", "Has a tensor behind the end of the file.",
      gguf_bytes(tensors=[place(offset=1 << 20)]))  # fmt: skip
_gguf("wraps", "Has a tensor whose offset and length wrap around 64 bits.",
      gguf_bytes(tensors=[place(offset=2**64 - 32)]))  # fmt: skip
_gguf("unaligned", "Has a tensor at an odd place.", gguf_bytes(tensors=[place(offset=1)]))
_gguf("overlapping", "Has two tensors in one place.",
      gguf_bytes(tensors=[place(b"v"), place(b"w")]))  # fmt: skip
_gguf("tensor_twice", "Has two tensors of one name.",
      gguf_bytes(tensors=[place(), place(offset=32)]))  # fmt: skip
_gguf("product", "Has a shape whose product is zero in 64 bits.",
      gguf_bytes(tensors=[place(shape=(2**32, 2**32))]))  # fmt: skip
_gguf("dimensions", "Has a tensor of four thousand million dimensions.",
      gguf_bytes(tensors=[text(b"w") + struct.pack("<I", 2**32 - 1)]))  # fmt: skip
_gguf("number_type", "Has a tensor of an unknown number type.",
      gguf_bytes(tensors=[place(kind=77)]))  # fmt: skip
_gguf("half_a_block", "Has rows of half a block.",
      gguf_bytes(tensors=[place(shape=(16, 2), kind=_Q4_0)]))  # fmt: skip
_gguf("name_of_no_text", "Has a tensor whose name is not UTF-8.",
      gguf_bytes(tensors=[place(b"\xff")]))  # fmt: skip
_gguf("version", "Is of a version that does not exist.", gguf_bytes(version=2**31))
_gguf("other_byte_order", "Is of the other byte order.", gguf_bytes(version=3 << 24))
_gguf("parts", "Is the first of two parts, by which llama.cpp opens a file beside it.",
      gguf_bytes([entry("split.count", 2, struct.pack("<H", 2)),
                  entry("split.no", 2, struct.pack("<H", 0))]))  # fmt: skip
_gguf("parts_of_a_text", "Gives a text for the number of its parts.",
      gguf_bytes([entry("split.count", _TEXT, text(b"2"))]))  # fmt: skip


def ggml_bytes(tokens: int = 1, tensor: bytes | None = None, *, version: int = 3) -> bytes:
    """A GGML file with one token and one tensor."""
    head = b"tjgg" + struct.pack("<8I", version, tokens, 32, 32, 4, 1, 8, 0)
    head += struct.pack("<I", 1) + b"a" + struct.pack("<f", 0.0)
    return head + (ggml_tensor(len(head)) if tensor is None else tensor)


def ggml_tensor(
    at: int, name: bytes = b"w", shape: Sequence[int] = (8,), kind: int = _F32, length: int = -1
) -> bytes:
    """A tensor's header and 32 bytes, which stand at byte `at`."""
    length = len(name) if length < 0 else length
    head = struct.pack(f"<3I{len(shape)}I", len(shape), length, kind, *shape) + name
    return head + bytes(-(at + len(head)) % 32 + 32)


_AT = len(ggml_bytes(tensor=b""))


def _ggml(name: str, what: str, content: bytes, *, size: int | None = None) -> Write:
    def write(path: Path) -> None:
        path.write_bytes(content)
        if size:
            os.truncate(path, size)

    write.__name__, write.__doc__ = name, what
    return sample("ggml table")(write)


_ggml("tokens", "Claims four thousand million tokens.", ggml_bytes(2**32 - 1))
_ggml("sparse_tokens", "Claims them in a terabyte of zeros that takes no space.",
      ggml_bytes(2**32 - 1), size=_SPARSE)  # fmt: skip
_ggml("version", "Is of a version whose blocks are others.", ggml_bytes(version=1))
_ggml("name_length", "Has a name of four thousand million characters.",
      ggml_bytes(tensor=ggml_tensor(_AT, length=2**32 - 1)))  # fmt: skip
_ggml("dimensions", "Has a tensor of 2^31 dimensions.",
      ggml_bytes(tensor=struct.pack("<3I", 2**31, 1, 0) + bytes(64)))  # fmt: skip
_ggml("product", "Has a shape whose product is zero in 64 bits.",
      ggml_bytes(tensor=ggml_tensor(_AT, shape=(2**31, 2**31, 4))))  # fmt: skip
_ggml("number_type", "Has a tensor of an unknown number type.",
      ggml_bytes(tensor=ggml_tensor(_AT, kind=99)))  # fmt: skip
_ggml("beyond", "Has a tensor that is longer than the file.",
      ggml_bytes(tensor=ggml_tensor(_AT, shape=(1 << 20,))))  # fmt: skip
_ggml("tensor_twice", "Has two tensors of one name.",
      ggml_bytes(tensor=ggml_tensor(_AT) + ggml_tensor(_AT + len(ggml_tensor(_AT)))),
      )  # fmt: skip
_ggml("nothing", "Has no tensor.", ggml_bytes(tensor=b""))
_ggml("half_a_block", "Has rows of half a block.",
      ggml_bytes(tensor=ggml_tensor(_AT, shape=(16, 2), kind=_Q4_0)))  # fmt: skip
