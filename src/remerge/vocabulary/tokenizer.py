"""The tokens of a model, read from its files without a tokenizer library.

>>> model = read_sentencepiece(folder / "tokenizer.model")
>>> model.pieces[1].text, model.pieces[1].kind == CONTROL
('<s>', True)

`tokenizer.model` is a protocol buffer of the SentencePiece project (`sentencepiece_model.proto`);
the few fields needed are read directly, so that no library decides a byte and no untrusted bytes
reach one.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from remerge.errors import CheckpointError, printable
from remerge.files import regular_file_size
from remerge.tensors.json_files import read_json

#: Kinds of pieces; SentencePiece and ggml number them alike.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
#: The `model_type` of Llama's tokenizers; 1 is unigram.
BPE = 2
#: Files that number tokens; without one of the first two nothing is known of them.
NUMBERING = ("tokenizer.json", "tokenizer.model", "added_tokens.json")
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


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Those files of a model's folder that number tokens, by name."""
    return {name: folder / name for name in NUMBERING if (folder / name).exists()}


def has_tokenizer(listed: Collection[str]) -> bool:
    """Whether files of these names tell the number of every token."""
    return any(name in listed for name in NUMBERING[:2])


def token_ids(folder: Path) -> dict[str, int]:
    """Number of every token's text in a model's folder; see `token_ids_of`."""
    return token_ids_of(tokenizer_files(folder), str(folder))


def token_ids_of(files: Mapping[str, Path], where: str) -> dict[str, int]:
    """Number of every token's text, from `tokenizer.json`, else `tokenizer.model`; the first holds.

    files  paths by name, of which only those in `NUMBERING` count

    CheckpointError, which begins with `where`, without either, or for one that is damaged.
    """
    ids: dict[str, int] = {}
    if "tokenizer.json" in files:
        ids = _tokenizer_json_ids(files["tokenizer.json"])
    elif "tokenizer.model" in files:
        for number, piece in enumerate(read_sentencepiece(files["tokenizer.model"]).pieces):
            ids.setdefault(piece.text, number)
    else:
        raise CheckpointError(f"{where}: has no tokenizer.json and no tokenizer.model to map by")
    if "added_tokens.json" in files:
        for text, number in read_json(files["added_tokens.json"]).items():
            ids.setdefault(text, number)
    for text, number in ids.items():
        if type(number) is not int or number < 0:
            raise CheckpointError(
                f"{where}: its tokenizer gives token {printable(text, 40)!r} the number "
                f"{printable(number, 40)}; fetch it again"
            )
    return ids


def _tokenizer_json_ids(path: Path) -> dict[str, Any]:
    """Tokens of the model and those added, their numbers as they stand."""
    content = read_json(path)
    model, ids = content.get("model"), dict[str, Any]()
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        ids |= vocabulary
    elif isinstance(vocabulary, list):  # unigram models list pairs of text and score
        for number, pair in enumerate(vocabulary):
            if not (isinstance(pair, list) and pair and isinstance(pair[0], str)):
                raise CheckpointError(f"{path}: entry {number} of its vocabulary is no token")
            ids.setdefault(pair[0], number)
    else:
        raise CheckpointError(f"{path}: has no vocabulary")
    added = content.get("added_tokens") or []
    for entry in added if isinstance(added, list) else [added]:
        if not (isinstance(entry, dict) and isinstance(entry.get("content"), str)):
            raise CheckpointError(f"{path}: its added_tokens are not a list of tokens")
        ids.setdefault(entry["content"], entry.get("id"))
    return ids
