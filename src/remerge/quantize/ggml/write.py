"""Write a Llama model folder as a legacy GGML file (container `ggjt`, version 3, of mid 2023).

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
from dataclasses import dataclass

from remerge.errors import CheckpointError
from remerge.files import open_atomic
from remerge.quantize.blocks.encoding import write_tensors
from remerge.quantize.blocks.types import TYPES, BlockType
from remerge.quantize.blocks.units import encoded_in_units
from remerge.quantize.core.llama import LlamaShape, llama_tensors, read_shape
from remerge.quantize.core.mixture import Layout
from remerge.quantize.core.reporting import QuantReport, Written, write_report
from remerge.quantize.core.request import Request
from remerge.quantize.core.tensor import ModelTensor
from remerge.quantize.core.vocabulary import Vocabulary, read_vocabulary
from remerge.quantize.ggml.header import read_ggml_header
from remerge.quantize.ggml.mixture import choose_type
from remerge.tensors.checkpoint import open_checkpoint, read_config
from remerge.vocabulary.tokenizer import BYTE, CONTROL, UNKNOWN

FILE_NAME = "model.ggml"
_MAGIC, _VERSION = 0x67676A74, 3
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


def tensor_name(part: str, layer: int) -> str:
    """The name in the file: `layers.3.attention.wq.weight`, `output.weight`."""
    place = f"layers.{layer}." if layer >= 0 else ""
    return f"{place}{_NAMES[part]}.weight"


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


def check_vocabulary(vocabulary: Vocabulary, where: str) -> None:
    """Refuse special tokens other than those that every reader takes for granted."""
    for role, token in (("bos", 1), ("eos", 2)):
        if vocabulary.special.get(role) != token:
            raise CheckpointError(
                f"{where}: a ggjt file cannot say that {role} is token "
                f"{vocabulary.special.get(role)}: readers take {token}; write GGUF instead"
            )
    if not vocabulary.add_bos or vocabulary.add_eos or not vocabulary.space_prefix:
        raise CheckpointError(
            f"{where}: a ggjt file cannot say what its tokenizer adds to a text: readers put bos "
            "and a space before it and nothing behind it; write GGUF instead"
        )


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


def _tensor_header(tensor: ModelTensor, kind: BlockType) -> bytes:
    name = tensor_name(tensor.part, tensor.layer).encode()
    sizes = tensor.info.shape[::-1]
    return struct.pack(f"<3I{len(sizes)}I", len(sizes), len(name), kind.code, *sizes) + name


@dataclass(frozen=True)
class Prepared:
    """The head of a file, its tensors with their types, and notes on the vocabulary."""

    header: bytes
    plan: list[tuple[ModelTensor, BlockType]]
    notes: tuple[str, ...]


def prepare(request: Request) -> Prepared:
    """Read config, headers and tokenizer; CheckpointError for what a ggjt file cannot hold."""
    model, form = request.model, request.form
    shape = read_shape(read_config(model), str(model))
    check_shape(shape, str(model))
    multiple = feed_forward_multiple(shape, str(model))
    tensors = llama_tensors(open_checkpoint(model), shape)
    vocabulary = read_vocabulary(model, shape.vocabulary)
    check_vocabulary(vocabulary, str(model))
    layout = Layout(shape.layers, shape.heads, shape.kv_heads)
    plan = [
        (tensor, TYPES[choose_type(tensor.part, tensor.layer, tensor.info.shape, form, layout)])
        for tensor in tensors
    ]
    return Prepared(_header(shape, vocabulary, multiple, form.file_type), plan, vocabulary.notes)


def write(request: Request) -> QuantReport:
    """Write model.ggml and manifest.json to `request.out`; for the errors see `quantize`.

    CheckpointError also for a model that the container cannot describe.
    """
    label = request.form.name
    made = prepare(request)
    plan = made.plan
    with (
        encoded_in_units(plan, request) as encoded,
        open_atomic(request.out / FILE_NAME) as file,
    ):
        file.write(made.header)
        write_tensors(file, plan, request.threads, label, _tensor_header, encoded)
    return write_report(
        request.out,
        request.form,
        Written(
            FILE_NAME,
            sum(tensor.info.size for tensor, _ in plan),
            Counter(kind.name for _, kind in plan),
            made.notes,
            tensors=read_ggml_header(request.out / FILE_NAME),
        ),
        name=request.name,
        request=request,
    )
