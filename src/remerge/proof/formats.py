"""Whether a quantized file is what it is said to be made of: every block derived once more.

>>> verify_format(Path("model-Q4_K_M.gguf"), Path("merged/final")).differences
()

The types are those of the file, whoever chose them; the blocks are compared byte by byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from remerge.errors import CheckpointError, printable
from remerge.progress import track
from remerge.quantize.blocks.encoding import encode, row_ranges
from remerge.quantize.blocks.types import TYPES, BlockType
from remerge.quantize.core.request import Request
from remerge.quantize.core.tensor import ModelTensor
from remerge.quantize.formats import FORMATS
from remerge.quantize.ggml import write as ggml
from remerge.quantize.ggml.header import read_ggml_header
from remerge.quantize.gguf import write as gguf
from remerge.quantize.gguf.header import Entry, read_gguf_header, read_gguf_metadata
from remerge.quantize.gguf.requantize import open_source
from remerge.tensors.checkpoint import raw_bytes
from remerge.tensors.safetensors import TensorInfo
from remerge.threads import require_ieee_arithmetic, thread_count

#: What a quantizer writes itself.
_OWN = ("general.file_type", "general.quantization_version")
#: What decides how a model computes, whoever wrote it; how a file presents itself is left to it.
_DECISIVE = re.compile(
    r"metadata (?!general\.|tokenizer\.)"
    r"|metadata tokenizer\.ggml\.(tokens|merges|model|pre|add_\w+|\w+_token_id):"
)
#: Share of blocks in which a fused multiply-add may have chosen otherwise, and no more.
_FEW = 0.02


@dataclass(frozen=True)
class FormatCheck:
    """`differences` has a line for each; `notes` say what may explain them."""

    tensors: int
    differences: tuple[str, ...]
    notes: tuple[str, ...]


def verify_format(file: Path, model: Path, threads: int | None = None) -> FormatCheck:
    """Derive `file` from `model` once more and compare.

    Args:
        file: A GGUF or GGML (ggjt version 3) file.
        model: A folder of safetensors, or a GGUF file of F16, BF16 or F32 weights.
        threads: Threads to use; all cores by default.

    Raises:
        CheckpointError: A file that is damaged, or cannot be derived: made with an importance
            matrix, or of types that are not known here.
    """
    require_ieee_arithmetic()
    with file.open("rb") as opened:
        magic = opened.read(4)
    if magic == b"GGUF":
        return _verify_gguf(file, model, thread_count(threads))
    if model.is_file():
        raise CheckpointError(f"{file}: is no GGUF file, and only those are made of {model.name}")
    return _verify_ggml(file, model, thread_count(threads))


def _verify_gguf(file: Path, model: Path, threads: int) -> FormatCheck:
    metadata, theirs = read_gguf_metadata(file), read_gguf_header(file)
    if any(key.startswith("quantize.imatrix") for key in metadata):
        raise CheckpointError(
            f"{file}: was made with an importance matrix, without which it cannot be derived"
        )
    if model.is_file():
        source = open_source(model)
        ours: dict[str, ModelTensor] = {tensor.info.name: tensor for tensor in source.tensors}
        said = list(_other_metadata(file, metadata, model, source.metadata))
    else:
        request = Request(model, model, FORMATS["gguf_f16"], threads)
        made = gguf.prepare(request)
        ours = {gguf.tensor_name(t.part, t.layer, t.suffix): t for t, _ in made.plan}
        with TemporaryDirectory() as folder:
            head = Path(folder) / "header.gguf"
            gguf.write_header(head, made, request)
            known = read_gguf_metadata(head)
            said = [
                line
                for line in _other_metadata(file, metadata, head, known)
                if _DECISIVE.match(line) and "only in" not in line
            ]
    return _compared(file, theirs, ours, threads, said)


def _verify_ggml(file: Path, model: Path, threads: int) -> FormatCheck:
    theirs = read_ggml_header(file)
    made = ggml.prepare(Request(model, model, FORMATS["ggml_f16"], threads))
    ours: dict[str, ModelTensor] = {ggml.tensor_name(t.part, t.layer): t for t, _ in made.plan}
    with file.open("rb") as opened:
        head = opened.read(len(made.header))
    # The ninth number is the file type.
    same = head[:32] + head[36:] == made.header[:32] + made.header[36:]
    said = [] if same else ["header: sizes or vocabulary are not those of the model"]
    return _compared(file, theirs, ours, threads, said)


def _other_metadata(
    file: Path, theirs: Mapping[str, Entry], model: Path, ours: Mapping[str, Entry]
) -> Iterator[str]:
    """A line for each entry that is not copied from the source."""
    with file.open("rb") as first, model.open("rb") as second:
        for key in {**theirs, **ours}:
            if key in _OWN:
                continue
            if key not in theirs or key not in ours:
                where = "the model" if key in ours else "the file"
                yield f"metadata {printable(key)}: only in {where}"
                continue
            values = []
            for opened, entry in ((first, theirs[key]), (second, ours[key])):
                opened.seek(entry.start)
                values.append(opened.read(entry.stop - entry.start))
            if values[0] != values[1]:
                yield f"metadata {printable(key)}: another value than in the model"


def _compared(
    file: Path,
    theirs: Mapping[str, TensorInfo],
    ours: Mapping[str, ModelTensor],
    threads: int,
    said: Sequence[str],
) -> FormatCheck:
    differences, notes = list(said), []
    differences += [f"{name}: is missing" for name in ours if name not in theirs]
    total = sum(info.nbytes for info in theirs.values())
    few = True
    with ThreadPoolExecutor(threads) as pool, track(total, "verify-format") as bar:
        for name, info in theirs.items():
            tensor = ours.get(name)
            if tensor is None:
                differences.append(f"{printable(name)}: the model has no such tensor")
            elif tensor.shape != info.shape:
                shapes = f"{list(info.shape)}, the model's {list(tensor.shape)}"
                differences.append(f"{name}: shape {shapes}")
            else:
                blocks, wrong, off = _different(file, info, tensor, pool, threads)
                few = few and wrong <= _FEW * blocks
                if wrong:
                    differences.append(
                        f"{name} {info.dtype}: {wrong} of {blocks} blocks differ, numbers by up "
                        f"to {off:.3g}"
                    )
            bar.advance(info.nbytes)
    if differences and few and not said and all("blocks differ" in line for line in differences):
        notes.append("so few blocks may come of a llama.cpp with fused multiply-add")
    return FormatCheck(len(theirs), tuple(differences), tuple(notes))


def _different(
    file: Path, info: TensorInfo, tensor: ModelTensor, pool: ThreadPoolExecutor, threads: int
) -> tuple[int, int, float]:
    """Blocks of a tensor, how many differ, and the largest difference of their numbers."""
    kind = TYPES.get(info.dtype)
    if kind is None:
        raise CheckpointError(
            f"{file}: tensor {printable(info.name)!r} is {info.dtype}, which cannot be derived; "
            f"known are {', '.join(TYPES)}"
        )
    row_ranges(tensor, kind)
    data = raw_bytes(replace(info, dtype="U8", shape=(info.nbytes,)))
    at, wrong, off = 0, 0, 0.0
    for ours in encode(tensor, kind, pool, 2 * threads):
        pairs = ours.reshape(-1, kind.nbytes), data[at : at + ours.size].reshape(-1, kind.nbytes)
        at += ours.size
        rows = np.flatnonzero((pairs[0] != pairs[1]).any(axis=1))
        if rows.size:
            wrong += rows.size
            numbers = [_numbers(blocks[rows], kind) for blocks in pairs]
            with np.errstate(invalid="ignore"):
                off = max(off, float(np.nanmax(np.abs(numbers[0] - numbers[1]), initial=0.0)))
    return info.nbytes // kind.nbytes, wrong, off


def _numbers(blocks: np.ndarray, kind: BlockType) -> np.ndarray:
    """What blocks [n, bytes] stand for."""
    from gguf import GGMLQuantizationType, dequantize

    packed = np.ascontiguousarray(blocks).reshape(1, -1)
    numbers = dequantize(packed, GGMLQuantizationType(kind.code))
    return np.asarray(numbers, np.float64).ravel()
