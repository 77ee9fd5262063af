"""The tokens of a Llama model as ggml files list them, from `tokenizer.model` and what was added.

>>> vocabulary = read_vocabulary(folder, rows=32000)
>>> vocabulary.texts[1], vocabulary.kinds[1] == CONTROL
('<s>', True)

Tokens beyond `tokenizer.model`, and other readings of its own, are those that transformers adds, by
the numbers that it gives them: see `tokenizer_files`. Rows of the embedding that no token names
become unused padding; tokens that have no row are left out and reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from remerge.errors import CheckpointError, printable
from remerge.quantize.core.rebuilt_pieces import (
    check_length,
    check_order,
    check_same_pieces,
    rebuild_pieces,
)
from remerge.quantize.core.tokenizer_files import (
    GENERIC,
    TokenizerFiles,
    check_added,
    number_added,
    optional_json,
    read_tokenizer_files,
)
from remerge.quantize.core.tokenizer_settings import check_pieces, read_settings
from remerge.vocabulary.tokenizer import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Piece,
    read_sentencepiece,
)

#: An added token has no score of its own; llama.cpp's converter gives it this one.
_ADDED_SCORE = -1000.0
#: What a piece of kind BYTE looks like.
_BYTE_TEXT = re.compile("<0x[0-9A-Fa-f]{2}>")
#: The names that SentencePiece itself gives.
_OWN_NAMES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}


@dataclass(frozen=True)
class Vocabulary:
    """`texts`, `scores` and `kinds` have one entry a row of the embedding.

    `special` maps ``bos``, ``eos``, ``unk`` and ``pad`` to ids, where the model has them. `notes`
    tell what was padded or left out. `model` and `pre` are llama.cpp's names of the tokenizer and
    of what splits a text before it; byte-level tokens (``gpt2``) have `merges` in place of scores.
    """

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    special: dict[str, int]
    add_bos: bool
    add_eos: bool
    space_prefix: bool
    notes: tuple[str, ...]
    model: str = "llama"
    pre: str = "default"
    merges: tuple[str, ...] = ()


def read_pieces(files: TokenizerFiles) -> tuple[Piece, ...]:
    """Read the pieces of a BPE model: of `tokenizer.model`, else rebuilt from `tokenizer.json`.

    Raises:
        CheckpointError: There are none, they are damaged, the two files differ, or llama.cpp would
            join them in another order than transformers.
    """
    path, document = files.folder / "tokenizer.model", files.folder / "tokenizer.json"
    if not path.exists():
        if not files.document:
            raise CheckpointError(
                f"{files.folder}: has no tokenizer.model and no tokenizer.json; only models with a "
                "SentencePiece or byte-level BPE tokenizer can be quantized"
            )
        return rebuild_pieces(document)
    model = read_sentencepiece(path)
    if model.model_type != BPE:
        raise CheckpointError(f"{path}: not a BPE model; llama files know no other SentencePiece")
    for token, piece in enumerate(model.pieces):
        if piece.kind == BYTE and not _BYTE_TEXT.fullmatch(piece.text):
            raise CheckpointError(
                f"{path}: piece {token} stands for a byte but reads {printable(piece.text, 40)!r}, "
                "not <0x00> to <0xFF>; fetch it again"
            )
    if files.document:
        check_same_pieces(model.pieces, document, byte_fallback=files.kind == GENERIC)
    else:
        check_order(model.pieces, path)
    return model.pieces


def _override(piece: Piece | None, text: str, *, special: bool) -> Piece:
    """What a token is once it was added: a piece that was special from the first stays as it is."""
    if piece and piece.text == text and piece.kind not in (NORMAL, UNUSED):
        return piece
    return Piece(text, _ADDED_SCORE, CONTROL if special else USER_DEFINED)


def special_ids(
    files: TokenizerFiles, texts: Sequence[str], kinds: Sequence[int]
) -> tuple[dict[str, int], list[str]]:
    """Find the special tokens, with a note for each that is not the one the tokenizer names.

    By the tokenizer's names, then by the ids of `config.json`, then by SentencePiece's own names.

    Raises:
        CheckpointError: Nothing says which token ends a text.
    """
    named, config = files.named, optional_json(files.folder / "config.json")
    places = {text: token for token, text in reversed(list(enumerate(texts)))}
    ids: dict[str, int] = {}
    notes = []
    for role in ("bos", "eos", "unk", "pad"):
        token = places.get(named.get(role, ""))
        if token is None:
            token = config.get(f"{role}_token_id")
            token = token[0] if isinstance(token, list) and token else token
        if type(token) is not int or not 0 <= token < len(texts):
            token = places.get(_OWN_NAMES.get(role, ""))
            if token is None or kinds[token] not in (CONTROL, UNKNOWN):
                continue
        ids[role] = token
        if role in named and texts[token] != named[role]:
            notes.append(
                f"{role}_token {printable(named[role], 40)} has no row in the embedding: "
                f"{printable(texts[token], 40)} ({token}) is taken"
            )
    if "unk" not in ids and UNKNOWN in kinds:
        ids["unk"] = kinds.index(UNKNOWN)
    if "eos" not in ids:
        raise CheckpointError(
            f"{files.folder}: which token ends a text is said by neither the tokenizer's files nor "
            "eos_token_id of config.json; a model without it never stops: add one"
        )
    return ids, notes


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """Read the vocabulary of the model in `folder`, whose embedding has `rows` rows.

    Raises:
        CheckpointError: There is no SentencePiece model, it is damaged, no token ends a text, or
            llama.cpp would split texts otherwise than transformers.
    """
    return read_vocabulary_of(read_tokenizer_files(folder), rows)


def read_vocabulary_of(files: TokenizerFiles, rows: int) -> Vocabulary:
    """`read_vocabulary` for files that are read already."""
    folder = files.folder
    pieces = read_pieces(files)
    known = {piece.text: token for token, piece in reversed(list(enumerate(pieces)))}
    numbers = number_added(files, known, rows)
    for text in numbers:
        check_length(text, folder)
    check_added(files, numbers, rows)
    _check_kinds(files, pieces, numbers)
    special = {each.text: each.special for each in files.added}
    table = dict(enumerate(pieces))
    for text, token in numbers.items():
        table[token] = _override(table.get(token), text, special=special[text])
    notes = [
        f"token {token} ({printable(piece.text, 40)}) has no row in the embedding: left out"
        for token, piece in sorted(table.items())
        if token >= rows
    ]
    padding = [token for token in range(rows) if token not in table]
    for token in padding:
        table[token] = Piece(f"[PAD{token}]", _ADDED_SCORE, UNUSED)
    if padding:
        notes.append(f"{len(padding)} rows of the embedding have no token: padded")
    texts, scores, kinds = (
        list(column) for column in zip(*(table[token] for token in range(rows)), strict=True)
    )
    ids, more = special_ids(files, texts, kinds)
    settings = read_settings(files, {**known, **numbers})
    check_pieces(settings, texts, folder)
    return Vocabulary(
        tuple(texts),
        tuple(scores),
        tuple(kinds),
        ids,
        settings.add_bos,
        settings.add_eos,
        settings.space_prefix,
        (*notes, *more),
    )


def _check_kinds(
    files: TokenizerFiles, pieces: Sequence[Piece], numbers: Mapping[str, int]
) -> None:
    """Refuse pieces that only one of the two programs finds whole, and bytes without a piece."""
    found = {UNKNOWN, *((CONTROL, USER_DEFINED) if files.document else ())}
    for token, piece in enumerate(pieces):
        if piece.kind in found and piece.text not in numbers:
            raise CheckpointError(
                f"{files.folder}: token {token}, {printable(piece.text, 40)!r}, is special in "
                "tokenizer.model and no added token for transformers; save the tokenizer anew"
            )
    bytes_ = {int(piece.text[3:5], 16) for piece in pieces if piece.kind == BYTE}
    missing = next((byte for byte in range(256) if byte not in bytes_), None)
    if missing is not None:
        raise CheckpointError(
            f"{files.folder}: its tokenizer has no token <0x{missing:02X}>, without which "
            "llama.cpp cannot write a character that the vocabulary lacks"
        )
