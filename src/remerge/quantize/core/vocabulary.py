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
from remerge.quantize.core.rebuilt_pieces import rebuild_pieces
from remerge.quantize.core.tokenizer_settings import check_pieces, read_settings
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
_KEY_DIGITS = 12
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


def _read_pieces(folder: Path) -> tuple[Piece, ...]:
    """The pieces of a BPE model: from `tokenizer.model`, else rebuilt from `tokenizer.json`."""
    path = folder / "tokenizer.model"
    if not path.exists():
        if not (folder / "tokenizer.json").exists():
            raise CheckpointError(
                f"{folder}: has no tokenizer.model; only models with a SentencePiece tokenizer can "
                "be quantized"
            )
        return rebuild_pieces(folder / "tokenizer.json")
    model = read_sentencepiece(path)
    if model.model_type != BPE:
        raise CheckpointError(f"{path}: not a BPE model; llama files know no other SentencePiece")
    for token, piece in enumerate(model.pieces):
        if piece.kind == BYTE and not _BYTE_TEXT.fullmatch(piece.text):
            raise CheckpointError(
                f"{path}: piece {token} stands for a byte but reads {printable(piece.text, 40)!r}, "
                "not <0x00> to <0xFF>; fetch it again"
            )
    return model.pieces


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
        # Python refuses to read a number of thousands of digits; no embedding has so many rows.
        if key.isascii() and key.isdecimal() and len(key) <= _KEY_DIGITS:
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


def _added_roles(folder: Path) -> dict[str, str]:
    """Role → text of the tokens that can be put around a text; null in the settings: none."""
    settings = _optional_json(folder / "tokenizer_config.json")
    named = _named_tokens(folder)
    if str(settings.get("tokenizer_class")).startswith("LlamaTokenizer"):
        for role in ("bos", "eos"):
            if f"{role}_token" not in settings:
                named.setdefault(role, _OWN_NAMES[role])
    return named


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


def check_representable(folder: Path, vocabulary: Vocabulary) -> None:
    """Refuse missing byte tokens, and added tokens with a row that transformers numbers otherwise.

    transformers gives a text that the pieces have its piece's number, and all others the next free
    ones in the order of their ids.
    """
    numbers = {
        piece.text: token for token, piece in reversed(list(enumerate(_read_pieces(folder))))
    }
    free = max(numbers.values()) + 1
    listed: dict[int, str] = {}
    for token, entry in _described(folder):
        text = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(text, str):
            continue
        if listed.setdefault(token, text) != text:
            raise CheckpointError(
                f"{folder}: tokenizer.json and tokenizer_config.json give token {token} different "
                "texts; repair one of them"
            )
        for key in ("lstrip", "rstrip", "single_word"):
            if entry.get(key):
                raise CheckpointError(
                    f"{folder}: llama.cpp has no {key}, which token {printable(text, 40)!r} asks "
                    "for; set it to false if spaces beside it do not matter"
                )
    if not listed:
        added = _optional_json(folder / "added_tokens.json").items()
        listed = {token: text for text, token in added if type(token) is int and token >= 0}
    for token, text in sorted(listed.items()):
        if text not in numbers:
            numbers[text] = free
            free += 1
        if numbers[text] != token and token < len(vocabulary.texts):
            raise CheckpointError(
                f"{folder}: the tokenizer's files say that {printable(text, 40)!r} is token "
                f"{token}, transformers numbers it {numbers[text]}; save the tokenizer anew"
            )


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of the model in `folder`, whose embedding has `rows` rows.

    CheckpointError when there is no SentencePiece model, it is damaged, or no token ends a text.
    """
    pieces = _read_pieces(folder)
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
    settings = read_settings(folder, _added_roles(folder))
    check_pieces(settings, texts, folder)
    return Vocabulary(
        tuple(texts),
        tuple(scores),
        tuple(kinds),
        special_ids,
        settings.add_bos,
        settings.add_eos,
        settings.space_prefix,
        (*notes, *more),
    )
