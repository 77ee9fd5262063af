"""Quantize a GGUF file of 16-bit or 32-bit weights, as `llama-quantize` does, of any architecture.

>>> write(Request(Path("model-f16.gguf"), Path("out"), FORMATS["gguf_q4_k_m"], threads=2))

Metadata are copied as they are, but for the file type; which tensor gets which type is decided by
names and sizes alone (see `mixture`). The file equals that of llama.cpp to the last byte where that
is compiled without fused multiply-add.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from remerge.errors import CheckpointError, RecipeError, printable
from remerge.files import open_atomic
from remerge.quantize.blocks.encoding import ALIGNMENT, write_tensors
from remerge.quantize.blocks.types import TYPES, BlockType
from remerge.quantize.blocks.units import encoded_in_units
from remerge.quantize.core.format import Format
from remerge.quantize.core.mixture import Layout, kind_of
from remerge.quantize.core.reporting import QuantReport, Written, write_report
from remerge.quantize.core.request import Request
from remerge.quantize.core.tensor import ModelTensor
from remerge.quantize.gguf.header import Entry, read_gguf_header, read_gguf_metadata
from remerge.quantize.gguf.mixture import choose_type
from remerge.tensors.safetensors import TensorInfo

FILE_NAME = "model.gguf"
_QUANTIZATION_VERSION = 2
_UINT32 = 4
_PLACE = re.compile(r"(?:blk\.(\d+)\.)?(.+)\.(\w+)")
_FILE_TYPE, _VERSION = "general.file_type", "general.quantization_version"
#: Types that a model can be quantized from.
SOURCES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Source:
    """A GGUF file: its metadata, its tensors in llama.cpp's order, and what decides their types."""

    path: Path
    metadata: dict[str, Entry]
    tensors: tuple[ModelTensor, ...]
    layout: Layout

    @property
    def alignment(self) -> int:
        """The data of every tensor begin at a multiple of this."""
        return _whole(self.metadata, "general.alignment", ALIGNMENT)

    @property
    def name(self) -> str:
        """What the file calls the model."""
        entry = self.metadata.get("general.name")
        return entry.value if entry and isinstance(entry.value, str) else self.path.stem


def _whole(metadata: dict[str, Entry], key: str, default: int | None = None) -> int:
    entry = metadata.get(key)
    value = entry.value if entry else default
    if type(value) is not int or value < 0:
        raise CheckpointError(f"metadata have no whole number {printable(key)!r}")
    return value


def _tensor(info: TensorInfo) -> ModelTensor:
    """A tensor by its name: its layer (−1 outside of all), its part, and what it is of it."""
    match = _PLACE.fullmatch(info.name)
    if match is None:
        return ModelTensor(info.name, -1, info, suffix="")
    return ModelTensor(match[2], int(match[1]) if match[1] else -1, info, suffix=match[3])


def open_source(path: Path) -> Source:
    """Read the header of a GGUF file of 16-bit or 32-bit weights.

    Raises:
        CheckpointError: It is damaged, a part of a model, or quantized already.
    """
    metadata, tensors = read_gguf_metadata(path), read_gguf_header(path)
    try:
        if _whole(metadata, "split.count", 1) > 1:
            raise CheckpointError("is a part of a model; join the parts first (`llama-gguf-split`)")
        architecture = metadata.get("general.architecture")
        if architecture is None or not isinstance(architecture.value, str):
            raise CheckpointError("metadata name no architecture")
        start = architecture.value
        heads = _whole(metadata, f"{start}.attention.head_count", 1)
        layout = Layout(
            layers=_whole(metadata, f"{start}.block_count"),
            heads=heads,
            kv_heads=_whole(metadata, f"{start}.attention.head_count_kv", heads) or heads or 1,
            tied="output.weight" not in tensors,
            experts=_whole(metadata, f"{start}.expert_count", 0),
            architecture=start,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None

    for name, info in tensors.items():
        if info.dtype not in SOURCES:
            raise CheckpointError(
                f"{path}: tensor {printable(name)!r} is {info.dtype}; only {', '.join(SOURCES)} "
                "can be quantized: take the file that it was made of"
            )

    def order(name: str) -> tuple[int, str]:
        match = re.match(r"blk\.(\d+)\.", name)
        return (int(match[1]) if match else -1, name)

    ordered = (_tensor(tensors[name]) for name in sorted(tensors, key=order))
    return Source(path, metadata, tuple(ordered), layout)


def plan_types(source: Source, form: Format) -> list[tuple[ModelTensor, BlockType]]:
    """The type of each tensor in the format.

    Raises:
        CheckpointError: A mixture has no rules for this architecture.
    """
    values = [t for t in source.tensors if t.suffix == "weight" and kind_of(t.part) == "attn_v"]
    ordinal = {tensor.info.name: position for position, tensor in enumerate(values)}
    layout = replace(source.layout, values=len(values))
    plan = []
    for tensor in source.tensors:
        name = tensor.info.name
        kind = None
        if tensor.suffix == "weight":
            if form.sensitive and "blk." in tensor.part:
                raise CheckpointError(
                    f"{source.path}: {form.name} has no rules for {printable(name)!r}; take a "
                    "format of one type: gguf_q6_k, gguf_q5_k_s, gguf_q4_0"
                )
            # llama.cpp counts value projections, and takes layers for the rest.
            layer = ordinal.get(name, tensor.layer)
            kind = choose_type(tensor.part, layer, tensor.shape, form, layout)
        plan.append((tensor, TYPES[kind or tensor.info.dtype]))
    return plan


def _number(key: str, value: int) -> bytes:
    text = key.encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<II", _UINT32, value)


def header(source: Source, plan: list[tuple[ModelTensor, BlockType]], form: Format) -> bytes:
    """The bytes of the new file before the data of its tensors."""
    kept = [e for key, e in source.metadata.items() if key not in (_FILE_TYPE, _VERSION)]
    parts = [struct.pack("<4sIQQ", b"GGUF", 3, len(plan), len(kept) + 2)]
    with source.path.open("rb") as file:
        for entry in kept:
            file.seek(entry.start)
            parts.append(file.read(entry.stop - entry.start))
    parts += [_number(_VERSION, _QUANTIZATION_VERSION), _number(_FILE_TYPE, form.file_type)]
    offset = 0
    for tensor, kind in plan:
        name, shape = tensor.info.name.encode(), tensor.info.shape[::-1]
        parts.append(struct.pack("<Q", len(name)) + name)
        parts.append(struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        parts.append(struct.pack("<IQ", kind.code, offset))
        nbytes = kind.size(tensor.size)
        offset += nbytes + -nbytes % source.alignment
    whole = b"".join(parts)
    return whole + bytes(-len(whole) % source.alignment)


def _pad(file: BinaryIO, alignment: int) -> None:
    file.write(bytes(-file.tell() % alignment))


def write(request: Request) -> QuantReport:
    """Write model.gguf and manifest.json to `request.out`; for the errors see `quantize`."""
    form, out = request.form, request.out
    if form.container != "gguf":
        raise RecipeError(
            f"{form.name} is made of a folder of safetensors; from {request.model.name} only the "
            "gguf formats can be made"
        )
    source = open_source(request.model)
    plan = plan_types(source, form)
    out.mkdir(parents=True, exist_ok=True)
    with (
        encoded_in_units(plan, request) as encoded,
        open_atomic(out / FILE_NAME) as file,
    ):
        file.write(header(source, plan, form))
        write_tensors(
            file, plan, request.threads, form.name, encoded=encoded, alignment=source.alignment
        )
        _pad(file, source.alignment)
    return write_report(
        out,
        form,
        Written(
            FILE_NAME,
            sum(tensor.size for tensor, _ in plan),
            Counter(kind.name for _, kind in plan),
            tensors=read_gguf_header(out / FILE_NAME),
        ),
        name=source.name,
        request=request,
    )
