"""Write a Llama model folder as a legacy GGML file (container `ggjt`, version 3, of mid 2023).

>>> quantize(Path("merged/final"), Path("quantized/ggml_q4_0"), "ggml_q4_0")

Kept for the programs of that year, which read nothing newer; for everything else take GGUF. The
layout is that of `convert.py` and `llama.cpp` at commit `dadbed9`: seven numbers, the vocabulary
with scores, then each tensor with its own small header and data at a multiple of 32 bytes. The
file says little: the size of the feed-forward layers follows from `n_mult`, and the rotary base
(10000), the key/value heads (as many as heads) and the special tokens (1 and 2) are taken for
granted. A model that differs is refused. Class *exact*, as GGUF.
"""

from __future__ import annotations

import struct
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import BinaryIO

from remerge.atomic import open_atomic
from remerge.errors import CheckpointError
from remerge.progress import track
from remerge.quantize.encoding import TYPES, BlockType, encode
from remerge.quantize.formats import of_container
from remerge.quantize.llama import LlamaShape, LlamaTensor, llama_tensors, read_shape
from remerge.quantize.reporting import QuantReport, write_report
from remerge.quantize.vocabulary import Vocabulary, read_vocabulary
from remerge.tensors.checkpoint import open_checkpoint, read_config
from remerge.tensors.tokenizer import BYTE, CONTROL, UNKNOWN

FILE_NAME = "model.ggml"
ALIGNMENT = 32
_MAGIC, _VERSION = 0x67676A74, 3
#: Format → type of the matrices, ggml's number for the whole file.
_FILE_TYPES = {
    "ggml_f16": ("F16", 1),
    "ggml_q4_0": ("Q4_0", 2),
    "ggml_q8_0": ("Q8_0", 7),
    "ggml_q5_1": ("Q5_1", 9),
}
_NAMES = {
    "token_embd": "tok_embeddings",
    "output_norm": "norm",
    "output": "output",
    "attn_norm": "attention_norm",
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_output": "attention.wo",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
}


def tensor_name(tensor: LlamaTensor) -> str:
    """The name in the file: `layers.3.attention.wq.weight`, `output.weight`."""
    place = f"layers.{tensor.layer}." if tensor.layer >= 0 else ""
    return f"{place}{_NAMES[tensor.part]}.weight"


def feed_forward_multiple(shape: LlamaShape, where: str) -> int:
    """The `n_mult` from which readers find the feed-forward size: ⌈(8·hidden/3)/n⌉·n.

    256 as in Llama where that fits, else the largest that does; CheckpointError if none does.
    """
    least = 8 * shape.hidden // 3
    for multiple in (256, *range(shape.feed_forward, 0, -1)):
        if -(-least // multiple) * multiple == shape.feed_forward:
            return multiple
    raise CheckpointError(
        f"{where}: a feed-forward size of {shape.feed_forward} cannot be told in a ggjt file for a "
        f"hidden size of {shape.hidden}; write GGUF instead"
    )


def check_shape(shape: LlamaShape, where: str) -> None:
    """Refuse what a ggjt file has no place for."""
    reason = None
    if shape.kv_heads != shape.heads:
        reason = f"{shape.kv_heads} key/value heads for {shape.heads} heads"
    elif shape.head_size * shape.heads != shape.hidden:
        reason = f"heads of size {shape.head_size}"
    elif shape.rope_base != 10000.0 or shape.rope_factor != 1.0:
        reason = f"the rotary base {shape.rope_base:g} with factor {shape.rope_factor:g}"
    elif shape.tied:
        reason = "an output matrix tied to the embedding"
    if reason:
        raise CheckpointError(f"{where}: a ggjt file cannot hold {reason}; write GGUF instead")


def _piece(text: str, kind: int) -> bytes:
    """What a token stands for in the text, as the readers of 2023 print it."""
    if kind == UNKNOWN:
        return " \u2047 ".encode()
    if kind == CONTROL:
        return b""
    if kind == BYTE:
        return bytes([int(text[3:5], 16)])
    return text.replace("\u2581", " ").encode()


def _header(shape: LlamaShape, vocabulary: Vocabulary, multiple: int, file_type: int) -> bytes:
    parts = [
        struct.pack(
            "<9I",
            _MAGIC,
            _VERSION,
            shape.vocabulary,
            shape.hidden,
            multiple,
            shape.heads,
            shape.layers,
            shape.head_size,
            file_type,
        )
    ]
    for text, score, kind in zip(
        vocabulary.texts, vocabulary.scores, vocabulary.kinds, strict=True
    ):
        piece = _piece(text, kind)
        parts.append(struct.pack("<I", len(piece)) + piece + struct.pack("<f", score))
    return b"".join(parts)


def _tensor_header(tensor: LlamaTensor, kind: BlockType) -> bytes:
    name, sizes = tensor_name(tensor).encode(), tensor.info.shape[::-1]
    return struct.pack(f"<3I{len(sizes)}I", len(sizes), len(name), kind.code, *sizes) + name


def _write(
    file: BinaryIO, plan: list[tuple[LlamaTensor, BlockType]], threads: int, label: str
) -> None:
    total = sum(tensor.info.nbytes for tensor, _ in plan)
    with ThreadPoolExecutor(threads) as pool, track(total, label) as bar:
        for tensor, kind in plan:
            file.write(_tensor_header(tensor, kind))
            file.write(bytes(-file.tell() % ALIGNMENT))
            pieces = encode(tensor, kind, pool, depth=2 * threads)
            file.writelines(piece.data for piece in pieces)
            bar.advance(tensor.info.nbytes)


def quantize(
    model_folder: Path | str,
    out_folder: Path | str,
    format_name: str,
    *,
    threads: int | None = None,
    calibration: Path | None = None,
) -> QuantReport:
    """Write `out_folder`/model.ggml and manifest.json from the Llama in `model_folder`.

    `threads` (default: all cores) changes the time, never a byte; `calibration` is not used by
    these formats. CheckpointError for a damaged folder and for a model that the container cannot
    describe, NumericError for NaN or Inf.
    """
    form = of_container(format_name, "ggml")
    model_folder, out_folder = Path(model_folder), Path(out_folder)
    where = str(model_folder)
    matrix_type, file_type = _FILE_TYPES[format_name]
    shape = read_shape(read_config(model_folder), where)
    check_shape(shape, where)
    multiple = feed_forward_multiple(shape, where)
    tensors = llama_tensors(open_checkpoint(model_folder), shape)
    vocabulary = read_vocabulary(model_folder, shape.vocabulary)
    plan = [
        (tensor, TYPES[matrix_type if len(tensor.info.shape) == 2 else "F32"]) for tensor in tensors
    ]
    with open_atomic(out_folder / FILE_NAME) as file:
        file.write(_header(shape, vocabulary, multiple, file_type))
        _write(file, plan, threads or cpu_count() or 1, format_name)
    return write_report(
        out_folder,
        form,
        FILE_NAME,
        sum(tensor.info.size for tensor in tensors),
        Counter(kind.name for _, kind in plan),
        vocabulary.notes,
    )
