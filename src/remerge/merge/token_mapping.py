"""Giving a donor's rows the order of the base's tokens: the rule `vocabulary: map`.

>>> mapped = map_vocabulary(donor, base, Path("scratch/vocabulary"))
>>> mapped.model, mapped.notes, mapped.digest

Two tokenizers may hold the same token at different places. A row belongs to a token's text and not
to its number, so each row of the result is the donor's row for the text that the base has there. A
text that the donor does not know takes the base's own row: its task vector is then exactly 0. The
mapped tensors lie in a file in scratch, never in memory.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from remerge.architectures.compatibility import TOKEN_BIASES, TOKEN_TENSORS, Note, fit_tokens
from remerge.errors import CheckpointError, printable
from remerge.files import disk_errors, open_atomic, require_space
from remerge.tensors.checkpoint import Checkpoint, raw_bytes, read_f32
from remerge.tensors.dtypes import ITEM_SIZE
from remerge.tensors.layout import OutputTensor, plan_shards
from remerge.tensors.safetensors import TensorInfo, read_header
from remerge.vocabulary.tokenizer import has_tokenizer, token_ids, tokenizer_files

_ROWS = 1024


@dataclass(frozen=True)
class Mapped:
    """A model whose rows were moved, what was done, and SHA-256 of which row went where."""

    model: Checkpoint
    notes: tuple[Note, ...]
    digest: str


def require_same_tokens(donor: Checkpoint, base: Checkpoint) -> None:
    """CheckpointError if the donor has a token of the base at another row of its embedding.

    Names and shapes then fit and the merge would mix unlike tokens silently. Tokens beyond
    the base's rows do not matter; folders without a tokenizer cannot be compared.
    """
    if has_tokenizer(tokenizer_files(donor.folder)) and has_tokenizer(tokenizer_files(base.folder)):
        ours, theirs = token_ids(base.folder), token_ids(donor.folder)
        fit_tokens(theirs, ours, donor.label, base)


def different_tokens(donor: Checkpoint, base: Checkpoint) -> int:
    """Count the tokens of the base that stand at another row in the donor, or not at all."""
    if not all(has_tokenizer(tokenizer_files(model.folder)) for model in (donor, base)):
        return 0
    ours, theirs = token_ids(base.folder), token_ids(donor.folder)
    return sum(theirs.get(text) != number for text, number in ours.items())


def map_vocabulary(donor: Checkpoint, base: Checkpoint, scratch: Path) -> Mapped:
    """The donor with its embedding and head [tokens, width] in the base's order.

    Types: the donor's own where base and donor agree, else F32, which holds both exactly. The
    mapped tensors lie in a new folder in `scratch`.
    """
    theirs, ours = token_ids(donor.folder), token_ids(base.folder)
    what = f"{donor.label}: mapping its vocabulary"
    for name in base.tensors:
        if name.endswith(TOKEN_BIASES):
            raise CheckpointError(
                f"{base.label}: has {printable(name)!r}, an entry a token, which `vocabulary: map` "
                "does not move; give the merge one vocabulary instead (`tokenizer: base` in the "
                "recipe, `--tokenizer base` on the command line)"
            )
    names = [n for n in base.tensors if n.endswith(TOKEN_TENSORS) and n in donor.tensors]
    require_space(scratch, sum(base.tensors[n].size for n in names) * ITEM_SIZE["F32"], what)
    tensors, digest = dict(donor.tensors), hashlib.sha256()
    notes: list[Note] = []
    with disk_errors(what, scratch):
        scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=scratch))
        for name in names:
            info, wanted = tensors[name], base.tensors[name]
            if len(info.shape) != 2 or info.shape[1:] != wanted.shape[1:]:
                raise CheckpointError(
                    f"{donor.label}: tensor {printable(name)!r} has shape {list(info.shape)}, "
                    f"{base.label} has {list(wanted.shape)}"
                )
            source = _sources(theirs, ours, info.shape[0], wanted.shape[0])
            # Tensor names are untrusted: never use one as a file name.
            tensors[name] = _write(folder, str(len(notes)), info, wanted, source)
            digest.update(hashlib.sha256(name.encode()).digest() + source.tobytes())
            kept = int(np.count_nonzero(source >= 0))
            moved = int(np.count_nonzero((source >= 0) & (source != np.arange(source.size))))
            text = f"rows mapped by token: {kept} of {info.shape[0]} used, {moved} moved"
            notes.append(Note(donor.label, name, f"{text}, {source.size - kept} are the base's"))
    return Mapped(replace(donor, tensors=tensors), tuple(notes), digest.hexdigest())


def _sources(
    theirs: Mapping[str, int], ours: Mapping[str, int], rows: int, wanted: int
) -> np.ndarray:
    """For each of the base's `wanted` rows the donor's row, of `rows`, or -1: int64 [wanted]."""
    source = np.full(wanted, -1, "<i8")
    for text, number in ours.items():
        row = theirs.get(text, -1)
        if number < wanted and 0 <= row < rows:
            source[number] = row
    return source


def _write(
    folder: Path, stem: str, info: TensorInfo, wanted: TensorInfo, source: np.ndarray
) -> TensorInfo:
    """One mapped tensor as a safetensors file of its own."""
    same = info.dtype == wanted.dtype
    dtype = info.dtype if same else "F32"
    (shard,) = plan_shards([OutputTensor(info.name, dtype, wanted.shape)], 2**62, stem=stem)
    path = folder / shard.file
    with open_atomic(path) as file:
        file.write(shard.header)
        for first in range(0, source.size, _ROWS):
            rows = source[first : first + _ROWS]
            block = _rows(wanted, np.arange(first, first + rows.size), same)
            known = rows >= 0
            if known.any():
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
