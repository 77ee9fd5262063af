"""The exact formats as units of work: files of encoded tensors, made on a cluster's nodes.

>>> with encoded_in_units(plan, request) as encoded:
...     write_tensors(file, plan, request.threads, label, encoded=encoded)

A container is one file in a fixed order, but what fills it is one pure function a tensor. So the
encoded tensors are the shards of a plan like a merge's, made wherever the request says, and are
then copied to their places in the container, each with its digest checked once more on the way.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remerge.code import ENCODING, digest_of
from remerge.errors import ToolError, printable
from remerge.files import require_spaces
from remerge.ownership import own_folder
from remerge.quantize.blocks.encoding import encode_rows, row_ranges
from remerge.quantize.blocks.types import TYPES, BlockType
from remerge.quantize.core.request import Request
from remerge.quantize.core.tensor import ModelTensor
from remerge.tensors.json_files import json_text, read_json
from remerge.tensors.layout import OutputTensor, Shard, plan_shards
from remerge.tensors.safetensors import TensorInfo

if TYPE_CHECKING:
    from remerge.shards.units import Chunks, TensorRecord

#: Encoded bytes of a unit, less than a merge's: a weight takes longer to encode than to merge.
SHARD_BYTES = 256_000_000
_BLOCK = 1 << 22


@dataclass(frozen=True)
class EncodePlan:
    """Encoded tensors as U8 [nbytes], under the names that they have in the checkpoint.

    `sources` says what each is encoded from, and as which type: by its name, since a compiled
    kernel is nothing to send to another machine.
    """

    label: str
    shards: tuple[Shard, ...]
    sources: Mapping[str, tuple[ModelTensor, str]]

    def reads(self, tensor: OutputTensor) -> Sequence[TensorInfo]:
        """The tensors of the checkpoint that it is made of."""
        return list(self.sources[tensor.name][0].sources)

    def compute(self, tensor: OutputTensor) -> Chunks:
        """Encode the tensor in the same steps as `encode`; no statistics."""
        source, name = self.sources[tensor.name]
        kind = TYPES[name]
        for start, stop in row_ranges(source, kind):
            yield encode_rows(source, kind, start, stop)
        return {}


def plan_units(plan: Sequence[tuple[ModelTensor, BlockType]], label: str) -> EncodePlan:
    """The units that encode `plan`; CheckpointError for rows of broken blocks."""
    for tensor, kind in plan:
        row_ranges(tensor, kind)  # refused before the work, not in it
    outputs = [OutputTensor(t.info.name, "U8", (kind.size(t.size),)) for t, kind in plan]
    sources = {tensor.info.name: (tensor, kind.name) for tensor, kind in plan}
    return EncodePlan(label, plan_shards(outputs, SHARD_BYTES), sources)


@contextmanager
def encoded_in_units(
    plan: Sequence[tuple[ModelTensor, BlockType]], request: Request
) -> Iterator[Callable[[ModelTensor], Iterator[bytes]] | None]:
    """The bytes of each tensor of `plan`, made by `request.make_shards`; None where that is None.

    Finished units are kept in `request.scratch` until the block ends well, so that the next attempt
    takes them over. ToolError before anything is computed if the disk does not hold them and the
    container, and for a unit that is not what it was when it was made.
    """
    if request.make_shards is None:
        yield None
        return
    units = plan_units(plan, request.form.name)
    # All attempts at one output share the beginning of their name: those from another model or by
    # other code would stay for ever.
    attempts = hashlib.sha256(str(request.out.resolve()).encode()).hexdigest()[:16]
    work = own_folder(request.scratch / f"{attempts}-{_key(units, request.model)}")
    missing = [shard for shard in units.shards if not (work / shard.file).exists()]
    total = sum(shard.nbytes for shard in units.shards)
    needs = [(work, sum(shard.nbytes for shard in missing)), (request.out, total)]
    require_spaces(needs, units.label)
    records = request.make_shards(units, work, request.threads)
    sha256 = {record.name: record for record in records}
    places = {
        name: (work / shard.file, offset)
        for shard in units.shards
        for name, offset in shard.offsets().items()
    }
    yield lambda tensor: _copied(*places[tensor.info.name], sha256[tensor.info.name])
    for attempt in request.scratch.glob(f"{attempts}-*"):
        shutil.rmtree(attempt, ignore_errors=True)


def _copied(path: Path, offset: int, record: TensorRecord) -> Iterator[bytes]:
    """The bytes of a tensor in a finished unit; ToolError after them unless they are the record's.

    The container is not whole by then, so nothing wrong appears under a final name.
    """
    digest, left = hashlib.sha256(), record.shape[0]
    with path.open("rb") as file:
        file.seek(offset)
        while block := file.read(min(left, _BLOCK)):
            digest.update(block)
            left -= len(block)
            yield block
    if digest.hexdigest() != record.sha256:
        raise ToolError(
            f"{path}: tensor {printable(record.name)!r} has changed since it was encoded; check "
            "the disk and run it again: this unit is made anew, the others are kept"
        )


def _key(units: EncodePlan, model: Path) -> str:
    """A digest of all that decides the bytes of the units: model, types, layout and code."""
    sources = [
        [asdict(tensor) | {"info": None, "stacked": [*map(_named, _parts(tensor))]}, kind]
        for tensor, kind in units.sources.values()
    ]
    layout = [[s.file, hashlib.sha256(s.header).hexdigest()] for s in units.shards]
    described = [_identity(units, model), sources, layout, digest_of(*ENCODING)]
    return hashlib.sha256(json_text(described).encode()).hexdigest()[:32]


def _parts(tensor: ModelTensor) -> tuple[TensorInfo, ...]:
    return tensor.sources or (tensor.info,)


def _named(info: TensorInfo) -> list[Any]:
    return [info.name, info.dtype, info.shape]


def _identity(units: EncodePlan, model: Path) -> Any:
    """The model's id where its manifest says one, else the sizes and times of its files."""
    manifest = model / "manifest.json"
    said = read_json(manifest).get("model_id") if manifest.is_file() else None
    if isinstance(said, str):
        return said
    read = {info.path for tensor, _ in units.sources.values() for info in tensor.sources}
    stats = {path: path.stat() for path in sorted(read)}
    return [[str(path.resolve()), s.st_size, s.st_mtime_ns] for path, s in stats.items()]
