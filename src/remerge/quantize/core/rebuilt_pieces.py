"""The SentencePiece pieces of a model that was saved with `tokenizer.json` alone.

>>> pieces = rebuild_pieces(folder / "tokenizer.json")

tokenizers joins the pair of lowest rank among the merges, SentencePiece (and llama.cpp) the pair
whose text has the highest score. The two agree when every way to make a piece out of two others is
a merge, and the merges that make the same piece stand together: then the k-th piece scores −k, as
SentencePiece's trainer writes it. Anything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.tensors.json_files import read_json
from remerge.vocabulary.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Piece

_BYTE_TEXT = re.compile("<0x[0-9A-F]{2}>")
#: Characters of a token: every way to cut one in two is looked at.
_TOKEN_LIMIT = 1024


def check_same_pieces(pieces: Sequence[Piece], path: Path, *, byte_fallback: bool) -> None:
    """Refuse a `tokenizer.json` that makes other tokens than the `tokenizer.model` beside it.

    Args:
        pieces: The pieces of `tokenizer.model`.
        path: The `tokenizer.json`, which is the one that transformers reads.
        byte_fallback: Whether the file decides what becomes of unknown characters.

    Raises:
        CheckpointError: The two number a token differently, or join pieces in another order.
    """
    document = read_json(path)
    model, vocabulary = bpe_model(document, path)
    if byte_fallback and not model.get("byte_fallback"):
        raise _differ(path, "byte_fallback is off in the first, pieces for bytes are in the second")
    for token, piece in enumerate(pieces):
        if vocabulary.get(piece.text) != token:
            other = next((text for text, number in vocabulary.items() if number == token), None)
            shown = f"{printable(other, 40)!r} and {printable(piece.text, 40)!r}"
            raise _differ(path, f"token {token} is {shown}")
    added = _added(document)
    scores = {piece.text: piece.score for piece in pieces}
    for text, token in vocabulary.items():
        if text not in scores and text not in added:
            raise _differ(path, f"only the first has token {token}, {printable(text, 40)!r}")
    last = None
    for made in _scores(read_merges(model, path), vocabulary, added, path):
        if made in added:  # found before pieces are joined, so never made
            continue
        if made not in scores or (last is not None and scores[made] >= scores[last]):
            shown = f"{printable(made, 40)!r} after {printable(last, 40)!r}"
            raise _differ(path, f"the first makes {shown}, by the scores of the second not")
        last = made


def _differ(path: Path, how: str) -> CheckpointError:
    return CheckpointError(
        f"{path} and tokenizer.model beside it differ: {how}; keep the one that the model was "
        "trained with"
    )


def check_order(pieces: Sequence[Piece], path: Path) -> None:
    """Refuse scores by which SentencePiece joins pieces in another order than transformers.

    Without a `tokenizer.json` transformers joins by the ids, the lowest first.

    Raises:
        CheckpointError: The first two pieces in whose order they differ.
    """
    texts = {piece.text for piece in pieces}
    last = None
    for piece in pieces:
        if piece.kind in (CONTROL, USER_DEFINED):  # found before pieces are joined
            continue
        check_length(piece.text, path)
        cuts = range(1, len(piece.text))
        if any(piece.text[:cut] in texts and piece.text[cut:] in texts for cut in cuts):
            if last is not None and piece.score >= last.score:
                raise CheckpointError(
                    f"{path}: {printable(piece.text, 40)!r} stands behind "
                    f"{printable(last.text, 40)!r} and scores as much or more: transformers would "
                    "join them in the order of their numbers, llama.cpp by their scores"
                )
            last = piece


def check_length(text: str, path: Path) -> None:
    """Refuse a token that is too long to look at every way to cut it in two."""
    if len(text) > _TOKEN_LIMIT:
        raise CheckpointError(
            f"{path}: token {printable(text, 40)!r} is longer than {_TOKEN_LIMIT} characters; "
            "not a genuine vocabulary"
        )


def rebuild_pieces(path: Path) -> tuple[Piece, ...]:
    """Rebuild the pieces by id.

    Args:
        path: A `tokenizer.json` with a BPE model that falls back to bytes.

    Returns:
        Text, score and kind of each token of the model's vocabulary.

    Raises:
        CheckpointError: The file is damaged, or no scores give the tokens that its merges give.
    """
    document = read_json(path)
    model, vocabulary = bpe_model(document, path)
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise CheckpointError(f"{path}: the ids of its vocabulary are not 0 to n−1")
    if not model.get("byte_fallback"):
        raise CheckpointError(
            f"{path}: a BPE model without byte_fallback is not a SentencePiece tokenizer; only "
            "models with a SentencePiece tokenizer can be quantized"
        )
    added = _added(document)
    scores = _scores(read_merges(model, path), vocabulary, added, path)
    unknown = model.get("unk_token") or "<unk>"
    texts = sorted(vocabulary, key=vocabulary.__getitem__)
    pieces = []
    left = -float(len(set(scores.values())))
    for text in texts:
        if text == unknown:
            kind = UNKNOWN
        elif text in added:
            kind = CONTROL if added[text] else USER_DEFINED
        else:
            kind = BYTE if _BYTE_TEXT.fullmatch(text) else NORMAL
        score = 0.0
        if text in scores:
            score = scores[text]
        elif kind == NORMAL:
            score, left = left, left - 1
        pieces.append(Piece(text, score, kind))
    return tuple(pieces)


def bpe_model(document: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Read the BPE model of a `tokenizer.json`, and the ids of its vocabulary by text.

    Raises:
        CheckpointError: It has none, or a token without a number.
    """
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vocabulary, dict) or not vocabulary:
        raise CheckpointError(f"{path}: has no vocabulary of a BPE model")
    for text, token in vocabulary.items():
        if type(token) is not int or token < 0:
            raise CheckpointError(
                f"{path}: its vocabulary gives {printable(text, 40)!r} the number "
                f"{printable(token, 40)}; fetch it again"
            )
    return model, vocabulary


def _added(document: dict[str, Any]) -> dict[str, bool]:
    """Text of each added token, and whether it is special."""
    listed = document.get("added_tokens")
    return {
        str(entry.get("content")): bool(entry.get("special"))
        for entry in (listed if isinstance(listed, list) else ())
        if isinstance(entry, dict)
    }


def read_merges(model: dict[str, Any], path: Path) -> list[tuple[str, str]]:
    """The merges in the order of their rank, from either way of writing them."""
    listed = model.get("merges")
    found = []
    for entry in listed if isinstance(listed, list) else ():
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(p) is str for p in pair):
            raise CheckpointError(f"{path}: merge {printable(entry, 40)!r} is not two tokens")
        found.append((pair[0], pair[1]))
    return found


def _scores(
    merges: list[tuple[str, str]],
    vocabulary: dict[str, Any],
    added: dict[str, bool],
    path: Path,
) -> dict[str, float]:
    """Score of every piece that a merge makes."""
    scores: dict[str, float] = {}
    last = None
    for left, right in merges:
        made = left + right
        if made != last and made in scores:
            raise CheckpointError(
                f"{path}: the merges to {printable(made, 40)!r} have ranks with others between: "
                "no scores of a ggml file give these tokens"
            )
        if made not in scores:
            scores[made] = -float(len(scores))
        last = made
    known = set(merges)
    for text in vocabulary:
        if text in added or _BYTE_TEXT.fullmatch(text):
            continue
        check_length(text, path)
        for cut in range(1, len(text)):
            pair = (text[:cut], text[cut:])
            if pair[0] in vocabulary and pair[1] in vocabulary and pair not in known:
                raise CheckpointError(
                    f"{path}: {printable(' + '.join(pair), 60)} is no merge although both and "
                    "their sum are tokens: llama.cpp would join them"
                )
    return scores
