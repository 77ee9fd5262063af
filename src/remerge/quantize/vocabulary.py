"""The tokens of a Llama model as ggml files list them, from `tokenizer.model` and what was added.

>>> vocabulary = read_vocabulary(folder, rows=32000)
>>> vocabulary.texts[1], vocabulary.kinds[1] == CONTROL
('<s>', True)

Tokens beyond `tokenizer.model` come from `added_tokens.json` and `added_tokens_decoder` of
`tokenizer_config.json`. Rows of the embedding that no token names become unused padding; tokens
that have no row are left out and reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.tensors.checkpoint import read_json
from remerge.tensors.tokenizer import (
    BPE,
    CONTROL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Piece,
    read_sentencepiece,
)

#: An added token has no score of its own; llama.cpp's converter gives it this one.
_ADDED_SCORE = -1000.0


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
    return model.pieces, model.space_prefix


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _added(folder: Path) -> dict[int, tuple[str, bool]]:
    """Id → (text, is it special) of all added tokens."""
    found: dict[int, tuple[str, bool]] = {}
    for text, token in _optional_json(folder / "added_tokens.json").items():
        if type(token) is int and token >= 0:
            found[token] = (text, text.startswith("<") and text.endswith(">"))
    decoder = _optional_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
    for token, entry in decoder.items() if isinstance(decoder, dict) else ():
        if token.isdecimal() and isinstance(entry, dict) and isinstance(entry.get("content"), str):
            found[int(token)] = (entry["content"], bool(entry.get("special")))
    return found


def _special_ids(folder: Path, texts: list[str], kinds: list[int]) -> dict[str, int]:
    """The special tokens by the names of the tokenizer, then by the ids of the configuration."""
    settings = _optional_json(folder / "tokenizer_config.json")
    named = {**_optional_json(folder / "special_tokens_map.json"), **settings}
    config = _optional_json(folder / "config.json")
    places = {text: token for token, text in reversed(list(enumerate(texts)))}
    ids: dict[str, int] = {}
    for role in ("bos", "eos", "unk", "pad"):
        value = named.get(f"{role}_token")
        text = value.get("content") if isinstance(value, dict) else value
        token = places.get(text) if isinstance(text, str) else config.get(f"{role}_token_id")
        if type(token) is int and 0 <= token < len(texts):
            ids[role] = token
    if "unk" not in ids and UNKNOWN in kinds:
        ids["unk"] = kinds.index(UNKNOWN)
    return ids


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of the model in `folder`, whose embedding has `rows` rows.

    CheckpointError when there is no SentencePiece model or it is damaged.
    """
    path = folder / "tokenizer.model"
    if not path.exists():
        raise CheckpointError(
            f"{folder}: has no tokenizer.model; GGUF and GGML files are written for models with "
            "a SentencePiece tokenizer only"
        )
    pieces, space_prefix = _read_pieces(path)
    added = _added(folder)
    table: dict[int, tuple[str, float, int]] = dict(enumerate(pieces))
    for token, (text, special) in sorted(added.items()):
        if token < len(pieces):
            continue
        table[token] = (text, _ADDED_SCORE, CONTROL if special else USER_DEFINED)
    notes = [
        f"token {token} ({printable(text, 40)}) has no row in the embedding: left out"
        for token, (text, _, _) in sorted(table.items())
        if token >= rows
    ]
    padding = [token for token in range(rows) if token not in table]
    for token in padding:
        table[token] = (f"[PAD{token}]", _ADDED_SCORE, UNUSED)
    if padding:
        notes.append(f"{len(padding)} rows of the embedding have no token: padded")
    columns = zip(*(table[token] for token in range(rows)), strict=True)
    texts, scores, kinds = (list(column) for column in columns)
    settings = _optional_json(folder / "tokenizer_config.json")
    return Vocabulary(
        tuple(texts),
        tuple(scores),
        tuple(kinds),
        _special_ids(folder, texts, kinds),
        bool(settings.get("add_bos_token", True)),
        bool(settings.get("add_eos_token", False)),
        space_prefix,
        tuple(notes),
    )
