"""Whether models fit together: by names, types and shapes, read from headers alone.

>>> tensors, notes = fit(donor, base, base_tensors, vocabulary="truncate")

Merging is blind to architecture: models fit together when their tensors have the same names and
shapes. The one difference that donors legitimately show is a vocabulary that somebody enlarged, and
that is handled by a rule that the recipe names, or refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from remerge.architectures.buffers import is_buffer
from remerge.errors import CheckpointError, printable
from remerge.tensors.checkpoint import Checkpoint
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE
from remerge.tensors.safetensors import TensorInfo

#: The last two parts of the names that tensors with a row a token have.
TOKEN_TENSORS = (
    "embed_tokens.weight",
    "lm_head.weight",
    "wte.weight",
    "embed_in.weight",
    "embed_out.weight",
    "word_embeddings.weight",
)
#: The path of tensors that lie in no file: they are computed when they are read.
COMPUTED = Path("computed on the way")
#: Vectors with an entry a token.
TOKEN_BIASES = ("lm_head.bias", "embed_out.bias")


@dataclass(frozen=True)
class Note:
    """A line of the manifest: what was dropped or changed on the way in."""

    model: str
    tensor: str
    text: str


def weights_only(model: Checkpoint) -> tuple[dict[str, TensorInfo], list[Note]]:
    """The model's weights, without buffers that its own code recomputes."""
    kept = {name: info for name, info in model.tensors.items() if not is_buffer(name, info.shape)}
    notes = [Note(model.label, n, "buffer, dropped") for n in model.tensors if n not in kept]
    return kept, notes


def require_mergeable(model: Checkpoint, tensors: Mapping[str, TensorInfo]) -> None:
    """CheckpointError unless there are tensors, all of types whose values are float32 numbers."""
    if not tensors:
        raise CheckpointError(f"{model.label}: {model.folder} holds no weights")
    for name, info in tensors.items():
        if info.dtype not in KERNEL_CODE:
            raise CheckpointError(
                f"{model.label}: tensor {printable(name)!r} in {info.path} is {info.dtype}; "
                "merges need F16, BF16 or F32 (a quantized checkpoint? see `remerge dequantize`)"
            )


def fit(
    model: Checkpoint,
    base: Checkpoint,
    base_tensors: Mapping[str, TensorInfo],
    vocabulary: str | None,
) -> tuple[dict[str, TensorInfo], list[Note]]:
    """The model's tensors under the base's names and shapes, or CheckpointError.

    `vocabulary="truncate"`, like `"rows"`, lets embedding and head have more rows than the base's;
    the rows beyond are left out, with a note for each tensor. A model that was mapped fits as it
    is.
    """
    tensors, notes = weights_only(model)
    require_mergeable(model, tensors)
    for names, verb in (
        (base_tensors.keys() - tensors.keys(), "lacks"),
        (tensors.keys() - base_tensors.keys(), "has beyond the base's"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"{model.label} ({model.folder}) {verb} tensor {printable(min(names))!r}{more}; "
                f"only models with the same tensors as {base.label} can be merged with it"
            )
    fitted = {}
    for name, wanted in base_tensors.items():
        info = tensors[name]
        if info.shape != wanted.shape:
            extra = _extra_rows(info, wanted)
            where = f"{model.label}: tensor {printable(name)!r}"
            if extra is None:
                advice = _FEWER if _extra_rows(wanted, info) else ""
                raise CheckpointError(
                    f"{where} has shape {list(info.shape)}, {base.label} has "
                    f"{list(wanted.shape)}{advice}"
                )
            if vocabulary not in ("truncate", "rows"):
                raise CheckpointError(
                    f"{where} has {extra} rows more than {base.label}'s; to leave them out, set "
                    "`vocabulary: truncate` on this donor in the recipe, or `--vocabulary truncate`"
                    " on the command line; to keep their tokens, `tokenizer: union` or `--tokenizer"
                    " union`"
                )
            notes.append(
                Note(model.label, name, f"{extra} vocabulary rows beyond the base, dropped")
            )
            nbytes = wanted.size * ITEM_SIZE[info.dtype]
            info = replace(info, shape=wanted.shape, nbytes=nbytes)
        fitted[name] = info
    return fitted, notes


def truncated(model: Checkpoint, first: Checkpoint) -> tuple[dict[str, TensorInfo], list[Note]]:
    """The model's tensors without the vocabulary rows that the first model does not have."""
    tensors, notes = dict(model.tensors), []
    for name, info in model.tensors.items():
        wanted = first.tensors.get(name)
        if wanted is not None and info.shape != wanted.shape and _extra_rows(info, wanted):
            nbytes = wanted.size * ITEM_SIZE[info.dtype]
            tensors[name] = replace(info, shape=wanted.shape, nbytes=nbytes)
            extra = info.shape[0] - wanted.shape[0]
            text = f"{extra} vocabulary rows beyond the base, dropped"
            notes.append(Note(model.label, name, text))
    return tensors, notes


def fit_tokens(
    theirs: Mapping[str, int], ours: Mapping[str, int], label: str, base: Checkpoint
) -> None:
    """CheckpointError if a token of the base stands at another row of the model called `label`.

    theirs, ours  the number of every token's text, of the model and of the base

    Names and shapes then fit and a merge would mix unlike tokens silently. Tokens beyond the
    base's rows do not matter.
    """
    rows = [t.shape[0] for n, t in base.tensors.items() if n.endswith(TOKEN_TENSORS) and t.shape]
    differing = [
        text
        for text, number in ours.items()
        if number < min(rows, default=0) and theirs.get(text) != number
    ]
    if differing:
        text = differing[0]
        raise CheckpointError(
            f"{label}: token {printable(text, 40)!r} is number {theirs.get(text, 'none')} "
            f"there and {ours[text]} in {base.label} ({len(differing)} tokens differ); to merge "
            "token by token, set `vocabulary: map` on this donor in the recipe, or `--vocabulary "
            "map` on the command line; to merge row by row, as where reserved tokens were only "
            "renamed, `rows` in its place; to keep the tokens of all, `tokenizer: union` or "
            "`--tokenizer union`"
        )


#: What to do about a donor with fewer rows than the base.
_FEWER = (
    "; to give it the base's rows for the tokens that it lacks, set `vocabulary: map` on this donor"
    " in the recipe, or `--vocabulary map` on the command line"
)


def _extra_rows(info: TensorInfo, wanted: TensorInfo) -> int | None:
    per_token = info.name.endswith(TOKEN_TENSORS)
    same_columns = len(info.shape) == 2 and info.shape[1:] == wanted.shape[1:]
    extra = info.shape[0] - wanted.shape[0] if per_token and same_columns else 0
    return extra if extra > 0 else None
