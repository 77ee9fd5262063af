"""Opening a donor under the rule for its vocabulary, for commands and stages alike.

>>> with mapping_folder(scratch) as mapped:
...     donor = open_donor("models/hermes", base, density=0.5, vocabulary="map", mapped=mapped)
...     build(plan_ties(base, [donor], …), …)
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from remerge.architectures.alignment import as_head_of
from remerge.architectures.compatibility import Note
from remerge.architectures.layout import laid_out_like
from remerge.errors import RecipeError
from remerge.files import disk_errors, open_atomic, require_space
from remerge.merge.token_mapping import different_tokens, map_vocabulary, require_same_tokens
from remerge.methods.ties import Donor
from remerge.tensors.checkpoint import Checkpoint, config_of, open_checkpoint, raw_bytes
from remerge.tensors.layout import OutputTensor, plan_shards
from remerge.tensors.safetensors import TensorInfo, read_header

_CHUNK = 1 << 24


@contextmanager
def mapping_folder(scratch: Path | str) -> Iterator[Path]:
    """A folder in `scratch` for mapped tensors: this run's own, removed when its merge is done."""
    folder = Path(scratch) / f"vocabulary-{uuid.uuid4().hex}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def named_like(
    model: Checkpoint, base: Checkpoint, mapped: Path | None
) -> tuple[Checkpoint, tuple[Note, ...]]:
    """Give a model the tensor names and the layout of `base`.

    Args:
        model: The model.
        base: The model that it is merged with.
        mapped: A `mapping_folder` for tensors that `base` stores whole and `model` in parts.

    Returns:
        The model, and lines of the manifest.

    Raises:
        CheckpointError: See `laid_out_like`.
    """
    laid = laid_out_like(model, config_of(model.folder), base, config_of(base.folder))
    if not laid.joins:
        return laid.model, laid.notes
    if mapped is None:
        raise RecipeError(f"{model.label}: joining tensors needs a folder for them")
    tensors = dict(laid.model.tensors)
    what = f"{model.label}: joining tensors"
    require_space(mapped, sum(tensors[name].nbytes for name in laid.joins), what)
    with disk_errors(what, mapped):
        folder = mapped / uuid.uuid4().hex
        folder.mkdir(parents=True)
        for number, (name, parts) in enumerate(laid.joins.items()):
            tensors[name] = _write_joined(folder, str(number), tensors[name], parts)
    return replace(laid.model, tensors=tensors), laid.notes


def _write_joined(
    folder: Path, stem: str, info: TensorInfo, parts: tuple[TensorInfo, ...]
) -> TensorInfo:
    """Write one tensor as a safetensors file of its own, the bytes of its parts in order."""
    output = OutputTensor(info.name, info.dtype, info.shape)
    (shard,) = plan_shards([output], 2**62, stem=stem)
    with open_atomic(folder / shard.file) as file:
        file.write(shard.header)
        for part in parts:
            data = raw_bytes(part)
            for begin in range(0, data.size, _CHUNK):
                file.write(data[begin : begin + _CHUNK].tobytes())
    return read_header(folder / shard.file)[info.name]


@dataclass(frozen=True)
class Ruled:
    """A model whose rows of tokens follow a rule: what was done, and which row went where."""

    model: Checkpoint
    notes: tuple[Note, ...] = ()
    rows: str = ""


def under_rule(
    model: Checkpoint, base: Checkpoint, rule: str | None, mapped: Path | None = None
) -> Ruled:
    """Give a model the base's names, and check its tokens against the base's or move their rows.

    Args:
        model: A donor.
        base: The model whose tokens count.
        rule: None: the rows must be the base's; `truncate`: rows beyond them are left out; `map`:
            each row goes where the base has its token; `rows`: rows are taken by their number,
            whatever tokens they are of; `one`: all models get one vocabulary later.
        mapped: A `mapping_folder`, which `map` needs, and tensors that the base stores whole.

    Raises:
        CheckpointError: The tokens need another rule.
    """
    model, notes = named_like(model, base, mapped)
    if rule == "map":
        if mapped is None:
            raise RecipeError(f"{model.label}: vocabulary map needs a folder for mapped tensors")
        full_base = as_head_of(base, config_of(base.folder), model)
        model = as_head_of(model, config_of(model.folder), base)
        rows = map_vocabulary(model, full_base, mapped)
        return Ruled(rows.model, (*notes, *rows.notes), rows.digest)
    if rule == "rows":
        renamed = different_tokens(model, base)
        text = f"rows taken by number: {renamed} tokens of {base.label} are others there"
        said = (Note(model.label, "tokenizer", text),) if renamed else ()
        return Ruled(model, (*notes, *said))
    if rule != "one":
        require_same_tokens(model, base)
    return Ruled(model, notes)


def open_donor(
    folder: Path | str,
    base: Checkpoint,
    *,
    density: float,
    weight: float = 1.0,
    vocabulary: str | None = None,
    label: str | None = None,
    mapped: Path | None = None,
) -> Donor:
    """The donor in `folder`, its tokens under the rule `vocabulary`; see `under_rule`.

    CheckpointError for a folder that is no model, or whose tokens need another rule.
    """
    ruled = under_rule(open_checkpoint(folder, label), base, vocabulary, mapped)
    return Donor(ruled.model, density, weight, vocabulary, ruled.notes, ruled.rows)
