"""Giving a donor's rows the order of the base's tokens: the rule `vocabulary: map`.

>>> mapped, notes = map_vocabulary(donor, base, Path("scratch/vocabulary"))

Two tokenizers may hold the same token at different places. A row belongs to a token's text and not
to its number, so each row of the result is the donor's row for the text that the base has there. A
text that the donor does not know takes the base's own row: its task vector is then exactly 0. The
mapped tensors lie in a file in scratch, never in memory.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from remerge.atomic import open_atomic
from remerge.errors import CheckpointError, printable
from remerge.shards.layout import OutputTensor, plan_shards
from remerge.tensors.checkpoint import Checkpoint, raw_bytes, read_f32, read_json
from remerge.tensors.fitting import TOKEN_TENSORS, Note
from remerge.tensors.safetensors import TensorInfo, read_header

_ROWS = 1024


def token_ids(folder: Path) -> dict[str, int]:
    """Number of every token's text, from `tokenizer.json`, else `tokenizer.model`; the first holds.

    CheckpointError if the folder has neither.
    """
    ids: dict[str, int] = {}
    if (folder / "tokenizer.json").exists():
        tokenizer = read_json(folder / "tokenizer.json")
        vocabulary = (tokenizer.get("model") or {}).get("vocab")
        if isinstance(vocabulary, list):  # unigram models list pairs of text and score
            vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
        if not isinstance(vocabulary, dict):
            raise CheckpointError(f"{folder / 'tokenizer.json'}: has no vocabulary")
        ids |= vocabulary
        for entry in tokenizer.get("added_tokens") or []:
            ids.setdefault(entry["content"], entry["id"])
    elif (folder / "tokenizer.model").exists():
        import sentencepiece

        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        for number in range(pieces.get_piece_size()):
            ids.setdefault(pieces.id_to_piece(number), number)
    else:
        raise CheckpointError(f"{folder}: has no tokenizer.json and no tokenizer.model to map by")
    if (folder / "added_tokens.json").exists():
        for text, number in read_json(folder / "added_tokens.json").items():
            ids.setdefault(text, number)
    if not all(type(number) is int and number >= 0 for number in ids.values()):
        raise CheckpointError(
            f"{folder}: its tokenizer numbers tokens by something else than naturals"
        )
    return ids


def require_same_tokens(donor: Checkpoint, base: Checkpoint) -> None:
    """CheckpointError if the donor has a token of the base at another row of its embedding.

    Names and shapes then fit and the merge would mix unlike tokens without a word. Tokens beyond
    the base's rows do not matter; folders without a tokenizer cannot be compared.
    """
    files = ("tokenizer.json", "tokenizer.model")
    if not all(any((m.folder / file).exists() for file in files) for m in (donor, base)):
        return
    rows = [t.shape[0] for n, t in base.tensors.items() if n.endswith(TOKEN_TENSORS) and t.shape]
    ours, theirs = token_ids(base.folder), token_ids(donor.folder)
    differing = [
        text
        for text, number in ours.items()
        if number < min(rows, default=0) and theirs.get(text) != number
    ]
    if differing:
        text = differing[0]
        raise CheckpointError(
            f"{donor.label}: token {printable(text, 40)!r} is number {theirs.get(text, 'none')} "
            f"there and {ours[text]} in {base.label} ({len(differing)} tokens differ); set "
            "`vocabulary: map` on this donor to merge token by token"
        )


def map_vocabulary(
    donor: Checkpoint, base: Checkpoint, scratch: Path
) -> tuple[Checkpoint, list[Note]]:
    """The donor with its embedding and head [tokens, width] in the base's order, and what was done.

    Types: the donor's own where base and donor agree, else F32, which holds both exactly.
    """
    theirs, ours = token_ids(donor.folder), token_ids(base.folder)
    tensors, notes = dict(donor.tensors), []
    for name, wanted in base.tensors.items():
        if not name.endswith(TOKEN_TENSORS) or name not in tensors:
            continue
        info = tensors[name]
        if len(info.shape) != 2 or info.shape[1:] != wanted.shape[1:]:
            raise CheckpointError(
                f"{donor.label}: tensor {printable(name)!r} has shape {list(info.shape)}, "
                f"{base.label} has {list(wanted.shape)}"
            )
        source = np.full(wanted.shape[0], -1, np.int64)
        for text, number in ours.items():
            row = theirs.get(text, -1)
            if number < wanted.shape[0] and 0 <= row < info.shape[0]:
                source[number] = row
        tensors[name] = _write(scratch, donor.label, info, wanted, source)
        kept = int(np.count_nonzero(source >= 0))
        moved = int(np.count_nonzero((source >= 0) & (source != np.arange(source.size))))
        text = f"rows mapped by token: {kept} of {info.shape[0]} used, {moved} moved"
        notes.append(Note(donor.label, name, f"{text}, {source.size - kept} are the base's"))
    return replace(donor, tensors=tensors), notes


def _write(
    scratch: Path, label: str, info: TensorInfo, wanted: TensorInfo, source: np.ndarray
) -> TensorInfo:
    """One mapped tensor as a safetensors file of its own."""
    same = info.dtype == wanted.dtype
    dtype = info.dtype if same else "F32"
    (shard,) = plan_shards([OutputTensor(info.name, dtype, wanted.shape)], 2**62, stem=info.name)
    path = scratch / label / shard.file
    with open_atomic(path) as file:
        file.write(shard.header)
        for first in range(0, source.size, _ROWS):
            rows = source[first : first + _ROWS]
            block = _rows(wanted, np.arange(first, first + rows.size), same)
            known = rows >= 0
            block[known] = _rows(info, rows[known], same)
            file.write(block.tobytes())
    return read_header(path)[info.name]


def _rows(info: TensorInfo, rows: np.ndarray, raw: bool) -> np.ndarray:
    """The given rows as bytes, or widened to float32."""
    if raw:
        return np.array(raw_bytes(info).reshape(info.shape[0], -1)[rows])
    width = info.shape[1]
    values = [read_f32(info, int(row) * width, (int(row) + 1) * width) for row in rows]
    return np.stack(values) if values else np.empty((0, width), np.float32)
