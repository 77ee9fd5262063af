"""Giving several models one vocabulary: that of one of them, or the union of all.

>>> aligned = align_vocabularies(models, TokenizerChoice("union"), Path("scratch/vocabulary"))
>>> aligned.models, aligned.rows, aligned.files

A row belongs to a token's text. Where a model has the token of the new vocabulary, its own row
moves there; where it lacks it, the row is taken as mergekit does (docs/contract.md, Vocabularies).
The new matrices lie in files in scratch, never in memory.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from remerge.architectures.compatibility import TOKEN_BIASES, TOKEN_TENSORS, Note
from remerge.errors import CheckpointError, RecipeError, printable
from remerge.files import disk_errors, open_atomic, require_space
from remerge.kernels.blocks import narrow, widen
from remerge.merge.token_union import union_files, union_ids
from remerge.tensors.checkpoint import Checkpoint, raw_bytes
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE, promoted
from remerge.tensors.layout import OutputTensor, plan_shards
from remerge.tensors.safetensors import TensorInfo, read_header
from remerge.vocabulary.tokenizer import has_tokenizer, token_ids, tokenizer_files

#: What a row is made of where it is no model's: zeros, the mean of those that have the token, or
#: the mean of all rows before it.
_ZERO, _AVERAGE, _MEAN = -1, -2, -3
_ROWS = 1024
_LANES = 8
MULTIPLE_LIMIT = 1 << 20


@dataclass(frozen=True)
class TokenRule:
    """Where the row of a token comes from in models that lack it.

    Attributes:
        kind: `zero`, `model` (that model's row of the token) or `model_token` (its row of another).
        model: The label of that model.
        token: For `model_token`, the other token's text or number.
        force: Also in models that have the token.
    """

    kind: str
    model: str | None = None
    token: str | int | None = None
    force: bool = False


@dataclass(frozen=True)
class TokenizerChoice:
    """The vocabulary of a result.

    Attributes:
        source: `base`, `union`, or the label of the model whose tokenizer it gets.
        tokens: Rules for single tokens by text; one that no tokenizer has is added.
        pad_to_multiple_of: The number of rows is rounded up to a multiple of it.
    """

    source: str = "union"
    tokens: Mapping[str, TokenRule] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None


@dataclass(frozen=True)
class AlignedVocabularies:
    """Models with the same tokens in the same rows.

    Attributes:
        models: The models, in the order given.
        rows: Rows of the embedding, for `vocab_size`.
        source: The model that gives the tokenizer's files.
        files: Files of the tokenizer that are not that model's own, by name.
        notes: What was done to which model.
        digest: SHA-256 of which row went where.
    """

    models: list[Checkpoint]
    rows: int
    source: Checkpoint
    files: dict[str, Path]
    notes: list[Note]
    digest: str


@dataclass(frozen=True)
class _Tokens:
    """The tokens of one model: numbers by text, of which those without a row do not count."""

    model: Checkpoint
    ids: Mapping[str, int]
    rows: int


def align_vocabularies(
    models: Sequence[Checkpoint], choice: TokenizerChoice, scratch: Path
) -> AlignedVocabularies:
    """Give models the vocabulary of a choice.

    Args:
        models: The base first. All store a head, or none.
        choice: Whose vocabulary, and rules for tokens.
        scratch: A folder, in which a new one is made.

    Returns:
        The models, and what becomes of the tokenizer's files.

    Raises:
        CheckpointError: A model cannot be read this way.
        RecipeError: A rule names a model or token that is not there.
    """
    by_label = {model.label: model for model in models}
    base = models[0]
    source = base if choice.source in ("base", "union") else by_label.get(choice.source)
    if source is None:
        raise RecipeError(
            f"tokenizer: source is {printable(choice.source, 60)!r}; expected base, union or one "
            f"of {', '.join(by_label)}"
        )
    notes: list[Note] = []
    tokens = {model.label: _tokens_of(model, base, notes) for model in models}
    added = [text for text in choice.tokens if text not in tokens[source.label].ids]
    others = list(tokens.values()) if choice.source == "union" else []
    target = union_ids(tokens[source.label].ids, [_with_rows(other) for other in others], added)
    rows = max(tokens[source.label].rows, max(target.values(), default=-1) + 1)
    multiple = choice.pad_to_multiple_of
    if multiple is not None:
        if not 0 < multiple <= MULTIPLE_LIMIT:
            raise RecipeError(f"tokenizer: pad_to_multiple_of is {multiple}; expected 1 or more")
        rows = -(-rows // multiple) * multiple
    what = "bringing vocabularies together"
    names = [name for name in base.tensors if name.endswith((*TOKEN_TENSORS, *TOKEN_BIASES))]
    width = sum(_width(base.tensors[name]) for name in names)
    require_space(scratch, rows * width * ITEM_SIZE["F32"] * len(models), what)
    sources = _Sources(list(tokens.values()), source.label, base.label, choice, target, rows)
    digest, moved = hashlib.sha256(), list[Checkpoint]()
    with disk_errors(what, scratch):
        scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=scratch))
        files = union_files(source, [m.folder for m in models], target, folder)
        for position, model in enumerate(models):
            models_row, models_of = sources.of(position)
            digest.update(models_of.tobytes() + models_row.tobytes())
            changed = dict(model.tensors)
            for number, name in enumerate(names):
                infos = [_matching(other, name, base) for other in models]
                stem = f"{position}-{number}"
                changed[name] = _write(folder, stem, infos, models_of, models_row, sources)
            moved.append(replace(model, tensors=changed))
            notes += [Note(model.label, name, _told(position, models_of, model)) for name in names]
    digest.update("\0".join(f"{n} {t}" for t, n in sorted(target.items())).encode())
    return AlignedVocabularies(moved, rows, source, files, notes, digest.hexdigest())


def _tokens_of(model: Checkpoint, base: Checkpoint, notes: list[Note]) -> _Tokens:
    rows = [t.shape[0] for n, t in model.tensors.items() if n.endswith(TOKEN_TENSORS) and t.shape]
    if not rows or len(set(rows)) > 1:
        raise CheckpointError(
            f"{model.label}: its tensors of tokens have {sorted(set(rows)) or 'no'} rows; they "
            "must have as many, to be given another vocabulary"
        )
    giver = model
    if not has_tokenizer(tokenizer_files(model.folder)):
        notes.append(Note(model.label, "tokenizer", f"has none; {base.label}'s is taken for it"))
        giver = base
    return _Tokens(model, token_ids(giver.folder), rows[0])


def _with_rows(tokens: _Tokens) -> dict[str, int]:
    return {text: number for text, number in tokens.ids.items() if number < tokens.rows}


def _width(info: TensorInfo) -> int:
    return info.shape[1] if len(info.shape) == 2 else 1


def _matching(model: Checkpoint, name: str, base: Checkpoint) -> TensorInfo:
    info, wanted = model.tensors.get(name), base.tensors[name]
    if info is None or info.shape[1:] != wanted.shape[1:] or len(info.shape) > 2:
        has = "no such tensor" if info is None else f"shape {list(info.shape)}"
        raise CheckpointError(
            f"{model.label}: {printable(name)!r} has {has}, {base.label} has {list(wanted.shape)}"
        )
    return info


def _told(position: int, models_of: np.ndarray, model: Checkpoint) -> str:
    own = int(np.count_nonzero(models_of == position))
    return f"brought to one vocabulary: {own} of {models_of.size} rows are its own"


class _Sources:
    """Which model and which of its rows gives each row of the new vocabulary."""

    def __init__(
        self,
        tokens: Sequence[_Tokens],
        source: str,
        base: str,
        choice: TokenizerChoice,
        target: Mapping[str, int],
        rows: int,
    ) -> None:
        self.tokens, self.choice, self.rows = tokens, choice, rows
        self.labels = [each.model.label for each in tokens]
        self.source, self.base = self.labels.index(source), self.labels.index(base)
        #: [model, new row]: that model's row of the token, or -1.
        self.own = np.full((len(tokens), rows), -1, np.int64)
        self.texts = {number: text for text, number in target.items()}
        for at, each in enumerate(tokens):
            for text, number in target.items():
                row = each.ids.get(text, -1)
                self.own[at, number] = row if row < each.rows else -1
        self.named = np.zeros(rows, bool)
        self.named[list(target.values())] = True
        self.default_of, self.default_row = self._defaults()

    def of(self, model: int) -> tuple[np.ndarray, np.ndarray]:
        """The row, and the model or way of computing it, of each new row for one model."""
        forced = np.zeros(self.rows, bool)
        for text, rule in self.choice.tokens.items():
            number = next((n for n, t in self.texts.items() if t == text), None)
            if rule.force and number is not None:
                forced[number] = True
        own = (self.own[model] >= 0) & ~forced
        row = np.where(own, self.own[model], self.default_row)
        return row, np.where(own, model, self.default_of)

    def _defaults(self) -> tuple[np.ndarray, np.ndarray]:
        """What a model gets that lacks a token, as mergekit: see docs/contract.md."""
        has = self.own >= 0
        count = has.sum(0)
        of = np.full(self.rows, _AVERAGE, np.int64)
        of[count == 0] = _ZERO
        base = has[self.base] & (count > 1)
        of[base] = self.base
        single = count == 1
        of[single] = np.argmax(has, 0)[single]
        # Rows without a token are the tokenizer's model's; those that are added, a mean.
        padded = ~self.named
        of[padded] = self.source
        of[padded & (np.arange(self.rows) >= self.tokens[self.source].rows)] = _MEAN
        row = np.zeros(self.rows, np.int64)
        real = of >= 0
        row[real] = self.own[of[real], np.arange(self.rows)[real]]
        row[padded] = np.arange(self.rows)[padded]
        for text, rule in self.choice.tokens.items():
            number = next(n for n, t in self.texts.items() if t == text)
            of[number], row[number] = self._ruled(text, rule, number)
        return of, row

    def _ruled(self, text: str, rule: TokenRule, number: int) -> tuple[int, int]:
        where = f"tokenizer: token {printable(text, 40)!r}"
        if rule.kind == "zero":
            return _ZERO, 0
        named = self.labels[self.base] if rule.model == "base" else rule.model
        if named not in self.labels:
            raise RecipeError(
                f"{where} is to come from {printable(rule.model, 60)!r}; expected one of "
                f"{', '.join(self.labels)}"
            )
        model = self.labels.index(named)
        tokens = self.tokens[model]
        if rule.kind == "model":
            row = int(self.own[model, number])
        elif isinstance(rule.token, int):
            row = rule.token
        else:
            row = tokens.ids.get(str(rule.token), -1)
        if not 0 <= row < tokens.rows:
            wanted = text if rule.kind == "model" else rule.token
            raise RecipeError(
                f"{where}: {rule.model} has no row of {printable(wanted, 40)!r}; name a model that "
                "has it, a {model, token}, or {kind: zero}"
            )
        return model, row


def _write(
    folder: Path,
    stem: str,
    infos: Sequence[TensorInfo],
    models_of: np.ndarray,
    row: np.ndarray,
    sources: _Sources,
) -> TensorInfo:
    """One matrix in its new order, as a safetensors file of its own.

    Its type is the narrowest that holds the types of all models' matrices; rows that are computed
    are rounded to it once.
    """
    dtype = promoted(info.dtype for info in infos)
    padded = bool((models_of == _MEAN).any())
    raw = {infos[of].dtype for of in np.unique(models_of) if of >= 0} <= {dtype}
    raw = raw and not padded and not (models_of == _AVERAGE).any()
    shape = (models_of.size, *infos[0].shape[1:])
    # A tensor's name is untrusted and never the name of a file.
    (shard,) = plan_shards([OutputTensor(infos[0].name, dtype, shape)], 2**62, stem=stem)
    path = folder / shard.file
    mean = _Mean(_width(infos[0]))
    with open_atomic(path) as file:
        file.write(shard.header)
        for first in range(0, row.size, _ROWS):
            last = min(first + _ROWS, row.size)
            block = _block(infos, models_of[first:last], row[first:last], dtype, raw)
            for at in np.flatnonzero(models_of[first:last] == _AVERAGE):
                block[at] = _average(infos, sources.own[:, first + int(at)])
            padding = models_of[first:last] == _MEAN
            if padded:
                mean.add(block[~padding])
                if padding.any():
                    block[padding] = mean.value()
            file.write(block.tobytes() if raw else _narrowed(block, dtype))
    return read_header(path)[infos[0].name]


def _block(
    infos: Sequence[TensorInfo], models_of: np.ndarray, row: np.ndarray, dtype: str, raw: bool
) -> np.ndarray:
    """Rows of several models as bytes, or widened to float32; zeros where they are no model's."""
    width = _width(infos[0]) * (ITEM_SIZE[dtype] if raw else 1)
    block = np.zeros((row.size, width), np.uint8 if raw else np.float32)
    for of in np.unique(models_of[models_of >= 0]):
        mine = models_of == of
        block[mine] = (_raw_rows if raw else _rows)(infos[of], row[mine])
    return block


def _raw_rows(info: TensorInfo, numbers: np.ndarray) -> np.ndarray:
    return raw_bytes(info).reshape(info.shape[0], -1)[numbers]


def _rows(info: TensorInfo, numbers: np.ndarray) -> np.ndarray:
    """Rows widened to float32, exactly."""
    if info.dtype not in KERNEL_CODE:
        raise CheckpointError(
            f"{info.path}: tensor {printable(info.name)!r} is {info.dtype}; "
            "only F16, BF16 and F32 weights can be used"
        )
    out_f32 = np.empty((numbers.size, _width(info)), np.float32)
    raw = np.ascontiguousarray(_raw_rows(info, numbers))
    widen(raw.reshape(-1), KERNEL_CODE[info.dtype], out_f32.reshape(-1))
    return out_f32


def _narrowed(block_f32: np.ndarray, dtype: str) -> bytes:
    out_u8 = np.empty(block_f32.size * ITEM_SIZE[dtype], np.uint8)
    narrow(np.ascontiguousarray(block_f32).reshape(-1), KERNEL_CODE[dtype], out_u8)
    return out_u8.tobytes()


def _average(infos: Sequence[TensorInfo], rows: np.ndarray) -> np.ndarray:
    """The sum of the rows that models have, in their order from +0, over their number; in fp32."""
    total = np.zeros(_width(infos[0]), np.float32)
    having = [model for model, row in enumerate(rows.tolist()) if row >= 0]
    for model in having:
        total = total + _rows(infos[model], rows[model : model + 1])[0]
    return total / np.float32(len(having))


class _Mean:
    """The mean of all rows so far: row i goes to lane i mod 8, the lanes are added exactly."""

    def __init__(self, width: int) -> None:
        self.lanes = np.zeros((_LANES, width))
        self.count = 0

    def add(self, rows_f32: np.ndarray) -> None:
        for row in rows_f32:
            self.lanes[self.count % _LANES] += row
            self.count += 1

    def value(self) -> np.ndarray:
        sums = [math.fsum(column) for column in self.lanes.T.tolist()]
        return (np.array(sums) / max(1, self.count)).astype(np.float32)
