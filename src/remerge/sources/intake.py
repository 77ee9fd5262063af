"""Making what was fetched plain: safetensors in state-dict order, whatever the source saved.

>>> with open_files(source, root=Path(), scratch=Path("scratch")) as files:
...     take_in_model(files, "models/chronos", scratch="scratch", shard_bytes=10**9, threads=8)

Which files hold the weights, `layouts` decides.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from remerge.adapters.peft_config import CONFIG_NAME, check_adapter_config
from remerge.adapters.peft_files import adapter_from_header
from remerge.architectures.buffers import is_buffer
from remerge.architectures.compatibility import Note
from remerge.architectures.order import state_dict_order
from remerge.errors import CheckpointError, NumericError, RemergeError, SourceError, printable
from remerge.files import disk_errors, open_atomic, publish_folder, require_spaces
from remerge.locks import sole_writer
from remerge.ownership import own_folder
from remerge.shards.artefact import TOKENIZER_FILES, build, resume_key
from remerge.shards.order import check_layers
from remerge.shards.units import CHUNK, Chunks, record_path
from remerge.sources.delivery import SourceFiles
from remerge.sources.layouts import (
    INDEXES,
    adapter_file,
    is_weights,
    require_config,
    weight_files,
)
from remerge.sources.pickles import PickledTensor, open_pickle
from remerge.sources.pinned import PinnedFile, Source, verify_file
from remerge.sources.quantized.origin import Origin, Stored, copy_of
from remerge.sources.quantized.reading import dequantized, require_plain, without_quantization
from remerge.tensors.checkpoint import raw_bytes, read_index
from remerge.tensors.json_files import json_text, read_json
from remerge.tensors.layout import OutputTensor, Shard, plan_shards
from remerge.tensors.safetensors import TensorInfo, read_header

#: Files that go with the weights into the result.
COMPANIONS = ("config.json", "generation_config.json", *TOKENIZER_FILES)

Found = TensorInfo | PickledTensor
#: Seconds to wait for a file before asking whether the work was stopped.
_WAIT_S = 0.2


@dataclass(frozen=True)
class IntakePlan:
    """Copies the tensors of a source into our layout, dequantized where that was asked for.

    origins  what each tensor is copied or computed from
    """

    label: str
    source: Source
    supply: Supply
    shards: tuple[Shard, ...]
    notes: tuple[Note, ...]
    origins: Mapping[str, Origin]
    unties: bool = False

    def parameters(self) -> dict[str, Any]:
        """What was asked for, for manifest and resume key."""
        source = self.source
        quantized = {"dequantize": True} if source.dequantize else {}
        return {"method": "fetch", "origin": source.origin, "config": source.config, **quantized}

    def inputs(self) -> dict[str, dict[str, Any]]:
        """The pinned digests: they are what the result depends on."""
        pins = {name: pin.sha256 for name, pin in self.source.files.items()}
        return {self.source.name: {"files": pins}}

    def details(self) -> None:
        """Nothing: the parameters tell all."""

    def reads(self, tensor: OutputTensor) -> tuple[TensorInfo, ...]:
        """Nothing that is known before: the files are still on their way."""
        return ()

    def parts_of(self, tensor: OutputTensor) -> Iterable[str]:
        """Names of the stored tensors that a tensor is made of."""
        return self.origins[tensor.name].parts.values()

    def compute(self, tensor: OutputTensor) -> Chunks:
        """Copy or compute one tensor, as soon as the files that hold its parts are here."""
        origin = self.origins[tensor.name]
        parts = {}
        for role, name in origin.parts.items():
            while (found := self.supply.open(name, _WAIT_S)) is None:
                yield None
            data = raw_bytes(found) if isinstance(found, TensorInfo) else found.bytes_u8()
            parts[role] = Stored(name, found.dtype, found.shape, data)
            del found, data
        if origin.compute is None:
            data = parts[""].data
            for begin in range(0, data.size, 2 * CHUNK):
                yield np.ascontiguousarray(data[begin : begin + 2 * CHUNK])
            del data
        else:
            yield from self._computed(origin, parts)
        parts.clear()
        for name in origin.parts.values():
            self.supply.done(name)
        return {}

    def _computed(self, origin: Origin, parts: Mapping[str, Stored]) -> Iterator[np.ndarray]:
        """Its bytes; what is wrong with a part is said of this source."""
        try:
            yield from origin.chunks(parts)
        except NumericError as error:
            raise NumericError(f"source {self.source.name!r}: {error}") from None


class Supply:
    """Opens weight files as their tensors are asked for and lets each go after its last one.

    table  by tensor: the file that holds it, and what that file's header says of it
    """

    def __init__(self, files: SourceFiles, table: Mapping[str, tuple[str, TensorInfo]]) -> None:
        self._files = files
        self._table = table
        self._lock = threading.Lock()
        self._opened: dict[str, Mapping[str, Found]] = {}
        self._left: Counter[str] = Counter()

    def expect(self, plan: IntakePlan, scratch: Path | str) -> None:
        """Begin to bring what the plan still has to copy; ToolError if the disk cannot hold it."""
        tensors = unfinished_tensors(plan, scratch)
        names = [self._table[part][0] for tensor in tensors for part in plan.parts_of(tensor)]
        self._left = Counter(names)
        files = list(dict.fromkeys(names))
        room = self._files.space_for(files, self._files_together(plan))
        written = sum(tensor.nbytes for tensor in tensors)
        require_spaces([(Path(scratch), written), room], plan.label)
        self._files.expect(files)

    def _files_together(self, plan: IntakePlan) -> int:
        """How many files two neighbouring shards read: threads may be at work on both."""
        read = [
            {self._table[part][0] for tensor in shard.tensors for part in plan.parts_of(tensor)}
            for shard in plan.shards
        ]
        return max((len(a | b) for a, b in zip(read, [*read[1:], set()], strict=True)), default=0)

    def open(self, tensor: str, seconds: float) -> Found | None:
        """The tensor in its file; None if that does not come in that time."""
        name, planned = self._table[tensor]
        path = self._files.take_within(name, seconds)
        if path is None:
            return None
        with self._lock:
            if name not in self._opened:
                self._opened[name] = (
                    read_header(path) if name.endswith(".safetensors") else open_pickle(path)
                )
            found = self._opened[name].get(tensor)
        if found is None or (found.dtype, found.shape) != (planned.dtype, planned.shape):
            raise SourceError(f"{name}: its tensors are not those that its header described")
        return found

    def done(self, tensor: str) -> None:
        """The tensor has been copied."""
        name = self._table[tensor][0]
        self._files.unchanged(name)
        with self._lock:
            self._left[name] -= 1
            if self._left[name]:
                return
            self._opened.pop(name, None)
        self._files.release(name)


def tensor_table(files: SourceFiles) -> tuple[dict[str, tuple[str, TensorInfo]], list[str]]:
    """Each tensor's file and description, by headers alone; and weight files that are none of them.

    CheckpointError when index and headers disagree or a tensor stands in two files.
    """
    where = f"source {files.source.name!r}"
    listed = files.source.files
    indexes = files.all(index for index in INDEXES if index in listed)
    weight_maps = {index: read_index(path) for index, path in indexes.items()}
    names = weight_files(listed, weight_maps, where)
    table: dict[str, tuple[str, TensorInfo]] = {}
    for name in names:
        for tensor, info in files.header(name).items():
            if tensor in table:
                raise CheckpointError(f"{where}: tensor {printable(tensor)!r} is in two files")
            table[tensor] = (name, info)
    for index, weight_map in weight_maps.items():
        for tensor in sorted(weight_map.keys() ^ table.keys()):
            side = "only in" if tensor in weight_map else "not in"
            raise CheckpointError(f"{where}: tensor {printable(tensor)!r} is {side} {index}")
    strays = [name for name in listed if is_weights(name) and name not in names]
    return table, strays


@dataclass(frozen=True)
class PlainTensors:
    """What a model is kept as: its tensors, where each comes from, its config, and notes."""

    tensors: dict[str, TensorInfo]
    origins: dict[str, Origin]
    config: dict[str, Any]
    notes: list[Note]


def plain_tensors(
    files: SourceFiles, config: Mapping[str, Any], table: Mapping[str, tuple[str, TensorInfo]]
) -> PlainTensors:
    """The tensors that a source gives, as they are or dequantized, by headers alone.

    config  its config.json, corrected
    table   of `tensor_table`

    CheckpointError for a quantized source that the recipe does not dequantize, and for one that
    cannot be dequantized. Offsets of what is computed mean nothing.
    """
    source = files.source
    where = f"source {source.name!r}"
    stored = {name: info for name, (_, info) in table.items()}
    if not source.dequantize:
        advice = (
            "set `dequantize: true` on it where it is pinned (conf/pins) to merge the values that "
            "they stand for"
        )
        require_plain(where, config, stored, advice)
        outputs = [OutputTensor(n, info.dtype, info.shape) for n, info in stored.items()]
        origins = {tensor.name: copy_of(tensor) for tensor in outputs}
        return PlainTensors(stored, origins, dict(config), [])

    def values(names: list[str]) -> dict[str, bytes]:
        by_file: dict[str, list[str]] = {}
        for name in names:
            by_file.setdefault(table[name][0], []).append(name)
        return {k: v for file, own in by_file.items() for k, v in files.values(file, own).items()}

    found = dequantized(where, config, stored, values)
    tensors = {}
    for name, origin in found.origins.items():
        first = stored[next(iter(origin.parts.values()))]
        made = origin.tensor
        tensors[name] = replace(
            first, name=name, dtype=made.dtype, shape=made.shape, nbytes=made.nbytes
        )
    notes = [Note(source.name, tensor, text) for tensor, text in found.notes]
    return PlainTensors(tensors, found.origins, without_quantization(config), notes)


def take_in(
    files: SourceFiles, out: Path | str, *, scratch: Path | str, shard_bytes: int, threads: int
) -> None:
    """Write a source of any kind to the folder `out`; see the function of its kind."""
    if files.source.kind == "adapter":
        take_in_adapter(files, out, scratch=scratch)
    elif files.source.kind == "dataset":
        take_in_dataset(files, out, scratch=scratch)
    else:
        take_in_model(files, out, scratch=scratch, shard_bytes=shard_bytes, threads=threads)


def take_in_model(
    files: SourceFiles,
    out: Path | str,
    *,
    scratch: Path | str,
    shard_bytes: int,
    threads: int,
) -> dict[str, Any]:
    """Write the model in `files` to the folder `out`; returns its manifest.

    Weights keep their types, unless they are dequantized. `inv_freq` buffers are dropped and stray
    weight files left aside, each with a note in the manifest. Weight files are asked for one after
    the other, in the order in which the shards need them.
    """
    source = files.source
    where = f"source {source.name!r}"
    require_config(source.files, source.kind, where)
    table, strays = tensor_table(files)
    small = files.all(n for n in source.files if n in COMPANIONS)
    notes = [Note(source.name, name, "stray weight file, left aside") for name in strays]
    config = read_json(small["config.json"]) | source.config
    plain = plain_tensors(files, config, table)
    notes += plain.notes
    config = plain.config
    buffers = [name for name, info in plain.tensors.items() if is_buffer(name, info.shape)]
    notes += [Note(source.name, name, "buffer, dropped") for name in buffers]
    weights = {name: info for name, info in plain.tensors.items() if name not in buffers}
    check_layers(config, len(weights))
    order, known = state_dict_order(config, weights)
    if not known:
        notes.append(
            Note(
                source.name,
                "",
                "order: not known for all tensors of this architecture; sorted by name",
            )
        )
    outputs = [OutputTensor(name, weights[name].dtype, weights[name].shape) for name in order]
    supply = Supply(files, table)
    plan = IntakePlan(
        label=f"fetch {source.name}",
        source=source,
        supply=supply,
        shards=plan_shards(outputs, shard_bytes),
        notes=tuple(notes),
        origins=plain.origins,
    )
    supply.expect(plan, scratch)
    return build(
        plan,
        out,
        companions=small,
        scratch=scratch,
        threads=threads,
        config_changes=source.config,
    )


def unfinished_tensors(plan: IntakePlan, scratch: Path | str) -> list[OutputTensor]:
    """Tensors of the shards that no earlier attempt has finished, in order."""
    work = Path(scratch) / resume_key(plan)
    return [
        tensor
        for shard in plan.shards
        if not record_path(work / shard.file).exists()
        for tensor in shard.tensors
    ]


def adapter_table(files: SourceFiles) -> tuple[dict[str, tuple[str, TensorInfo]], dict[str, Any]]:
    """Each tensor's file and description, and the config; CheckpointError for an unusable one."""
    source = files.source
    where = f"source {source.name!r}"
    require_config(source.files, source.kind, where)
    weights = adapter_file(source.files, where)
    config = read_json(files.all([CONFIG_NAME])[CONFIG_NAME])
    check_adapter_config(config, f"{where}: {CONFIG_NAME}")
    tensors = files.header(weights)
    adapter_from_header(config, tensors, Path(source.origin), source.name)
    return {name: (weights, info) for name, info in tensors.items()}, config


def take_in_adapter(files: SourceFiles, out: Path | str, *, scratch: Path | str) -> dict[str, Any]:
    """Write the adapter in `files` as `adapter_model.safetensors`; returns the manifest."""
    source = files.source
    table, _ = adapter_table(files)
    outputs = [OutputTensor(n, table[n][1].dtype, table[n][1].shape) for n in sorted(table)]
    supply = Supply(files, table)
    plan = IntakePlan(
        label=f"fetch {source.name}",
        source=source,
        supply=supply,
        shards=plan_shards(outputs, 2**62, stem="adapter_model"),
        notes=(),
        origins={tensor.name: copy_of(tensor) for tensor in outputs},
    )
    supply.expect(plan, scratch)
    return build(
        plan,
        out,
        companions=files.all([CONFIG_NAME]),
        scratch=scratch,
        threads=1,
    )


def take_in_dataset(files: SourceFiles, out: Path | str, *, scratch: Path | str) -> None:
    """Copy the files of a data set, which may lie in folders, to `out`.

    Files that an interrupted attempt has copied wait in `scratch` and are not fetched again.
    """
    out, source = Path(out), files.source
    label = f"fetch {source.name}"
    pins = [[name, pin.sha256] for name, pin in sorted(source.files.items())]
    key = hashlib.sha256(json_text(["dataset", source.name, pins]).encode()).hexdigest()[:32]
    work = Path(scratch) / key
    with ExitStack() as held, disk_errors(label, work):
        held.enter_context(sole_writer(out, label))
        held.enter_context(sole_writer(work, label, wait=True))
        work = own_folder(work)
        for leftover in [path for path in work.rglob(".*.partial") if path.is_file()]:
            leftover.unlink()
        names = [n for n, pin in source.files.items() if not _is_sound(work / n, pin)]
        sizes = sum(source.files[name].size for name in names)
        require_spaces([(work, sizes), files.space_for(names)], label)
        files.expect(names)
        for name in names:
            path = files.take(name)
            with path.open("rb") as reader, open_atomic(work / name) as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
            files.unchanged(name)
            files.release(name)
        publish_folder(work, out)


def _is_sound(path: Path, pin: PinnedFile) -> bool:
    """Whether a file that an earlier attempt left is the pinned one."""
    try:
        verify_file(path, pin, "")
    except (RemergeError, OSError):
        return False
    return True
