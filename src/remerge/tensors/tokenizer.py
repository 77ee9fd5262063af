"""The tokens in `tokenizer.model`, read without a tokenizer library.

>>> model = read_sentencepiece(folder / "tokenizer.model")
>>> model.pieces[1].text, model.pieces[1].kind == CONTROL
('<s>', True)

The file is a protocol buffer of the SentencePiece project (`sentencepiece_model.proto`); the few
fields needed are read directly, so that no library decides a byte and no stranger's bytes reach
one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from remerge.errors import CheckpointError
from remerge.tensors.safetensors import regular_file_size

#: Kinds of pieces; SentencePiece and ggml number them alike.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
#: The `model_type` of Llama's tokenizers; 1 is unigram.
BPE = 2
_SIZE_LIMIT = 64_000_000


class Piece(NamedTuple):
    """One token: its text, its score (a float32) and its kind."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """`pieces` by token id; `space_prefix`: whether a space is put before the text."""

    pieces: tuple[Piece, ...]
    model_type: int
    space_prefix: bool


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """The pieces of a SentencePiece model; CheckpointError for a file that is none."""
    if regular_file_size(path) > _SIZE_LIMIT:
        raise CheckpointError(f"{path}: larger than {_SIZE_LIMIT} bytes; not a tokenizer")
    return parse_sentencepiece(path.read_bytes(), str(path))


def parse_sentencepiece(data: bytes, where: str) -> SentencePieceModel:
    """`read_sentencepiece` for bytes already in hand; `where` names them in an error."""
    pieces: list[Piece] = []
    model_type, space_prefix = 1, True
    for number, value in _fields(data, where):
        if not isinstance(value, bytes):
            continue
        if number == 1:
            pieces.append(_piece(value, where))
        elif number == 2:
            model_type = dict(_fields(value, where)).get(3, model_type)
        elif number == 3:
            space_prefix = bool(dict(_fields(value, where)).get(3, 1))
    if not pieces:
        raise CheckpointError(f"{where}: holds no pieces; not a SentencePiece model")
    return SentencePieceModel(tuple(pieces), model_type, space_prefix)


def _fields(data: bytes, where: str) -> Iterator[tuple[int, Any]]:
    """(field number, value) of one protocol buffer message: int, 4 or 8 raw bytes, or bytes."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            if position >= len(data) or shift > 63:
                raise CheckpointError(f"{where}: damaged; fetch it again")
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(data):
        key = varint()
        number, wire = key >> 3, key & 7
        if wire == 0:
            yield number, varint()
            continue
        if wire not in (1, 2, 5):
            raise CheckpointError(f"{where}: damaged; fetch it again")
        length = {1: 8, 5: 4}.get(wire) or (varint() if wire == 2 else 0)
        if length > len(data) - position:
            raise CheckpointError(f"{where}: truncated; fetch it again")
        yield number, data[position : position + length]
        position += length


def _piece(data: bytes, where: str) -> Piece:
    text, score, kind = b"", 0.0, NORMAL
    for number, value in _fields(data, where):
        if number == 1 and isinstance(value, bytes):
            text = value
        elif number == 2 and isinstance(value, bytes) and len(value) == 4:
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = value
    try:
        return Piece(text.decode("utf-8"), score, kind)
    except UnicodeDecodeError:
        raise CheckpointError(f"{where}: a piece is not UTF-8; fetch it again") from None
