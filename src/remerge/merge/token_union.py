"""The union of vocabularies: the base's tokens keep their numbers, those of others follow.

>>> union_ids({"a": 0, "b": 1}, [{"a": 0, "c": 1}], [])
{'a': 0, 'b': 1, 'c': 2}

New tokens become added tokens of the base's `tokenizer.json`: text is still split as the base does,
and a new token is found where it stands whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError
from remerge.files import write_text
from remerge.tensors.checkpoint import Checkpoint
from remerge.tensors.json_files import read_json, write_json
from remerge.vocabulary.tokenizer import token_ids

_FILE, _ADDED, _SENTENCEPIECE = "tokenizer.json", "added_tokens.json", "tokenizer.model"
#: How a text becomes a token that is found wherever it stands, as the tokenizers library adds it.
_PLAIN = {
    "lstrip": False,
    "normalized": True,
    "rstrip": False,
    "single_word": False,
    "special": False,
}


def union_ids(
    base: Mapping[str, int], others: Sequence[Mapping[str, int]], added: Sequence[str]
) -> dict[str, int]:
    """Return the number of every token of a union.

    Args:
        base: The tokens of the first vocabulary, which keep their numbers.
        others: Other vocabularies; their tokens follow in the order of their numbers.
        added: Texts that follow those.
    """
    union = dict(base)
    following = max(base.values(), default=-1) + 1
    texts = [text for other in others for text, _ in sorted(other.items(), key=lambda t: t[1])]
    for text in [*texts, *added]:
        if text not in union:
            union[text] = following
            following += 1
    return union


def union_files(
    base: Checkpoint, folders: Sequence[Path], union: Mapping[str, int], folder: Path
) -> dict[str, Path]:
    """Write the files of the base's tokenizer that the new tokens change.

    Args:
        base: The model whose tokenizer is extended.
        folders: The folders of all models, for the settings of their added tokens.
        union: The number of every token.
        folder: Where the files are written.

    Returns:
        Their paths by name; none if the base has all tokens.

    Raises:
        CheckpointError: The base has no `tokenizer.json`.
    """
    known = token_ids(base.folder)
    new = sorted((number, text) for text, number in union.items() if text not in known)
    if not new:
        return {}
    if not (base.folder / _FILE).exists():
        raise CheckpointError(
            f"{base.label}: has no {_FILE}, to which the tokens of others could be added; save its "
            "tokenizer with transformers (AutoTokenizer, save_pretrained), which writes one"
        )
    content = read_json(base.folder / _FILE)
    settings = _settings(folders)
    entries = [{"content": t, "id": n, **settings.get(t, _PLAIN)} for n, t in new]
    content["added_tokens"] = [*(content.get("added_tokens") or []), *entries]
    files = {_FILE: folder / _FILE}
    # In the order of the file: the library that reads it may rely on it.
    write_text(files[_FILE], json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    beside = base.folder / _ADDED
    if beside.exists() or (base.folder / _SENTENCEPIECE).exists():
        listed = read_json(beside) if beside.exists() else {}
        files[_ADDED] = folder / _ADDED
        write_json(files[_ADDED], {**listed, **{text: number for number, text in new}})
    return files


def _settings(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """How the models look for their added tokens; the first that has one decides."""
    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        entries: list[Any] = []
        if (folder / _FILE).exists():
            entries = read_json(folder / _FILE).get("added_tokens") or []
        for entry in entries:
            flags = {key: entry.get(key, value) for key, value in _PLAIN.items()}
            if all(isinstance(flag, bool) for flag in flags.values()):
                found.setdefault(entry["content"], flags)
    return found
