"""The tokens of a Llama model as ggml files list them, from `tokenizer.model` and what was added.

>>> vocabulary = read_vocabulary(folder, rows=32000)
>>> vocabulary.texts[1], vocabulary.kinds[1] == CONTROL
('<s>', True)

Tokens beyond `tokenizer.model`, and other readings of its own, come from `added_tokens.json`,
`added_tokens` of `tokenizer.json` and `added_tokens_decoder` of `tokenizer_config.json`; the last
that names an id decides. Rows of the embedding that no token names become unused padding; tokens
that have no row are left out and reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.tensors.json_files import read_json
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
    tell what was padded or left out.
    """

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    special: dict[str, int]
    add_bos: bool
    add_eos: bool
    space_prefix: bool
    notes: tuple[str, ...]


def _read_pieces(path: Path) -> tuple[tuple[Piece, ...], bool]:
    """The pieces of a BPE model, and whether a space is put before the text."""
    model = read_sentencepiece(path)
    if model.model_type != BPE:
        raise CheckpointError(f"{path}: not a BPE model; llama files know no other SentencePiece")
    for token, piece in enumerate(model.pieces):
        if piece.kind == BYTE and not _BYTE_TEXT.fullmatch(piece.text):
            raise CheckpointError(
                f"{path}: piece {token} stands for a byte but reads {printable(piece.text, 40)!r}, "
                "not <0x00> to <0xFF>; fetch it again"
            )
    return model.pieces, model.space_prefix


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _added(folder: Path) -> dict[int, tuple[str, bool]]:
    """Id → (text, is it special) of all added tokens."""
    found: dict[int, tuple[str, bool]] = {}
    for text, token in _optional_json(folder / "added_tokens.json").items():
        if type(token) is int and token >= 0:
            found[token] = (text, text.startswith("<") and text.endswith(">"))
    for token, entry in _described(folder):
        if isinstance(entry, dict) and isinstance(entry.get("content"), str):
            found[token] = (entry["content"], bool(entry.get("special")))
    return found


def _described(folder: Path) -> Iterator[tuple[int, Any]]:
    """(id, entry) of the tokens that `tokenizer.json` and `tokenizer_config.json` describe."""
    listed = _optional_json(folder / "tokenizer.json").get("added_tokens")
    for entry in listed if isinstance(listed, list) else ():
        token = entry.get("id") if isinstance(entry, dict) else None
        if type(token) is int and token >= 0:
            yield token, entry
    decoder = _optional_json(folder / "tokenizer_config.json").get("added_tokens_decoder")
    for key, entry in decoder.items() if isinstance(decoder, dict) else ():
        if key.isdecimal():
            yield int(key), entry


def _override(piece: Piece | None, text: str, *, special: bool) -> Piece:
    """What a token is once it was added: a piece that was special from the first stays as it is."""
    if piece and piece.text == text and piece.kind not in (NORMAL, UNUSED):
        return piece
    return Piece(text, _ADDED_SCORE, CONTROL if special else USER_DEFINED)


def _named_tokens(folder: Path) -> dict[str, str]:
    """Role → text, as the tokenizer's files name the special tokens."""
    found = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        settings = _optional_json(folder / file)
        for role in ("bos", "eos", "unk", "pad"):
            value = settings.get(f"{role}_token")
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found[role] = text
    return found


def _special_ids(
    folder: Path, texts: list[str], kinds: list[int]
) -> tuple[dict[str, int], list[str]]:
    """The special tokens, and a note for each that is not the one the tokenizer names.

    By the tokenizer's names, then by the ids of `config.json`, then by SentencePiece's own names.
    """
    named, config = _named_tokens(folder), _optional_json(folder / "config.json")
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
            f"{folder}: which token ends a text is said by neither the tokenizer's files nor "
            "eos_token_id of config.json; a model without it never stops: add one"
        )
    return ids, notes


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of the model in `folder`, whose embedding has `rows` rows.

    CheckpointError when there is no SentencePiece model, it is damaged, or no token ends a text.
    """
    path = folder / "tokenizer.model"
    if not path.exists():
        raise CheckpointError(
            f"{folder}: has no tokenizer.model; only models with a SentencePiece tokenizer can be "
            "quantized"
        )
    pieces, space_prefix = _read_pieces(path)
    table = dict(enumerate(pieces))
    for token, (text, special) in sorted(_added(folder).items()):
        table[token] = _override(table.get(token), text, special=special)
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
    special_ids, more = _special_ids(folder, texts, kinds)
    settings = _optional_json(folder / "tokenizer_config.json")
    return Vocabulary(
        tuple(texts),
        tuple(scores),
        tuple(kinds),
        special_ids,
        bool(settings.get("add_bos_token", True)),
        bool(settings.get("add_eos_token", False)),
        space_prefix,
        (*notes, *more),
    )
