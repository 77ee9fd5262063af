"""The SentencePiece pieces of a model that was saved with `tokenizer.json` alone.

>>> pieces = rebuild_pieces(folder / "tokenizer.json")

tokenizers joins the pair of lowest rank among the merges, SentencePiece (and llama.cpp) the pair
whose text has the highest score. The two agree when every way to make a piece out of two others is
a merge, and the merges that make the same piece stand together: then the k-th piece scores −k, as
SentencePiece's trainer writes it. Anything else is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.tensors.json_files import read_json
from remerge.vocabulary.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Piece

_BYTE_TEXT = re.compile("<0x[0-9A-F]{2}>")
#: Characters of a token: every way to cut one in two is looked at.
_TOKEN_LIMIT = 1024


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
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vocabulary, dict) or not vocabulary:
        raise CheckpointError(f"{path}: has no vocabulary of a BPE model")
    if sorted(map(str, vocabulary.values())) != sorted(map(str, range(len(vocabulary)))):
        raise CheckpointError(f"{path}: the ids of its vocabulary are not 0 to n−1")
    if not model.get("byte_fallback"):
        raise CheckpointError(
            f"{path}: a BPE model without byte_fallback is not a SentencePiece tokenizer; only "
            "models with a SentencePiece tokenizer can be quantized"
        )
    added = _added(document)
    scores = _scores(_merges(model, path), vocabulary, added, path)
    unknown = model.get("unk_token") or "<unk>"
    texts = sorted(vocabulary, key=lambda text: int(vocabulary[text]))
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


def _added(document: dict[str, Any]) -> dict[str, bool]:
    """Text of each added token, and whether it is special."""
    listed = document.get("added_tokens")
    return {
        str(entry.get("content")): bool(entry.get("special"))
        for entry in (listed if isinstance(listed, list) else ())
        if isinstance(entry, dict)
    }


def _merges(model: dict[str, Any], path: Path) -> list[tuple[str, str]]:
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
        if len(text) > _TOKEN_LIMIT:
            raise CheckpointError(
                f"{path}: token {printable(text, 40)!r} is longer than {_TOKEN_LIMIT} characters; "
                "not a genuine vocabulary"
            )
        for cut in range(1, len(text)):
            pair = (text[:cut], text[cut:])
            if pair[0] in vocabulary and pair[1] in vocabulary and pair not in known:
                raise CheckpointError(
                    f"{path}: {printable(' + '.join(pair), 60)} is no merge although both and "
                    "their sum are tokens: llama.cpp would join them"
                )
    return scores
