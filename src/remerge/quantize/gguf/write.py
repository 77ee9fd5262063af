"""Write a Llama model folder as one GGUF file that llama.cpp runs without anything else.

The container comes from the `gguf` package, the numbers from this library's own exact kernels. The
bytes depend on the model folder and what is asked for alone: no time, no path, no host, and neither
the number of threads nor the processor (class *exact*). Norms stay float32.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gguf import GGMLQuantizationType, GGUFWriter

from remerge.files import create, publish, temporary_path
from remerge.quantize.blocks.encoding import ALIGNMENT, write_tensors
from remerge.quantize.blocks.types import TYPES, BlockType
from remerge.quantize.blocks.units import encoded_in_units
from remerge.quantize.core.reporting import QuantReport, Written, write_report
from remerge.quantize.core.request import Request
from remerge.quantize.core.tensor import ModelTensor
from remerge.quantize.core.tokenizer_files import read_tokenizer_files
from remerge.quantize.core.vocabulary import Vocabulary, read_vocabulary_of
from remerge.quantize.gguf.byte_level import is_byte_level, read_byte_level
from remerge.quantize.gguf.general import describe_for_people, further_ends
from remerge.quantize.gguf.header import read_gguf_header
from remerge.quantize.gguf.mixture import choose_type
from remerge.quantize.gguf.model import Model, read_model
from remerge.tensors.checkpoint import open_checkpoint, read_config
from remerge.vocabulary.chat_template import chat_template

FILE_NAME = "model.gguf"
_QUANTIZATION_VERSION = 2


def tensor_name(part: str, layer: int, suffix: str = "weight") -> str:
    """The name in the file: `blk.3.attn_q.weight`, `output.weight`."""
    place = f"blk.{layer}." if layer >= 0 else ""
    return f"{place}{part}.{suffix}"


def _describe_model(writer: GGUFWriter, model: Model, name: str, file_type: int) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    for method, value in model.entries:
        getattr(writer, method)(value)


def _describe_vocabulary(
    writer: GGUFWriter, vocabulary: Vocabulary, ends: dict[str, int], template: str | None
) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list([text.encode() for text in vocabulary.texts])
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
    writer.add_token_types(list(vocabulary.kinds))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    setters = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
        "eot": writer.add_eot_token_id,
        "eom": writer.add_eom_token_id,
    }
    special = vocabulary.special | ends
    for role, add in setters.items():
        if role in special:
            add(special[role])
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if vocabulary.scores:
        writer.add_add_space_prefix(vocabulary.space_prefix)
    if template is not None:
        writer.add_chat_template(template)


def _write_header(writer: GGUFWriter, plan: list[tuple[ModelTensor, BlockType]]) -> None:
    for tensor, kind in plan:
        writer.add_tensor_info(
            tensor_name(tensor.part, tensor.layer, tensor.suffix),
            tensor.shape,
            None,  # the number type: stands in the last argument
            kind.size(tensor.size),
            GGMLQuantizationType(kind.code),
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


@dataclass(frozen=True)
class Prepared:
    """All that goes into a file but the weights; `ends` are the tokens of `further_ends`."""

    model: Model
    plan: list[tuple[ModelTensor, BlockType]]
    vocabulary: Vocabulary
    ends: dict[str, int]
    template: str | None
    notes: tuple[str, ...]


def prepare(request: Request) -> Prepared:
    """Read config, headers and tokenizer; CheckpointError for what a GGUF file cannot hold."""
    folder, form = request.model, request.form
    model = read_model(read_config(folder), open_checkpoint(folder))
    files = read_tokenizer_files(folder)
    read = read_byte_level if is_byte_level(files) else read_vocabulary_of
    vocabulary = read(files, model.vocabulary)
    ends, more = further_ends(folder, vocabulary.texts, vocabulary.special["eos"])
    template = chat_template(folder, request.prompt)
    plan = [
        (each, TYPES[choose_type(each.part, each.layer, each.shape, form, model.layout) or "F32"])
        for each in model.tensors
    ]
    notes = (*model.notes, *vocabulary.notes, *more, *template.notes)
    return Prepared(model, plan, vocabulary, ends, template.text, notes)


def write_header(path: Path, made: Prepared, request: Request) -> None:
    """Write all of a file but the data of its tensors to `path`."""
    writer = GGUFWriter(path, made.model.architecture)
    _describe_model(writer, made.model, request.name, request.form.file_type)
    weights = sum(tensor.size for tensor, _ in made.plan)
    describe_for_people(writer, request.description, weights)
    _describe_vocabulary(writer, made.vocabulary, made.ends, made.template)
    _write_header(writer, made.plan)


def write(request: Request) -> QuantReport:
    """Write model.gguf and manifest.json to `request.out`; for the errors see `quantize`."""
    out, form = request.out, request.form
    made = prepare(request)
    plan = made.plan
    weights = sum(tensor.size for tensor, _ in plan)
    out.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(out / FILE_NAME)
    with encoded_in_units(plan, request) as encoded:
        try:
            os.close(create(temporary))  # ours from now on; the library opens it by its name
            write_header(temporary, made, request)
            with temporary.open("ab") as file:
                write_tensors(file, plan, request.threads, form.name, encoded=encoded)
                file.write(bytes(-file.tell() % ALIGNMENT))
                file.flush()
                os.fsync(file.fileno())
            publish(temporary, out / FILE_NAME)
        finally:
            temporary.unlink(missing_ok=True)
    return write_report(
        out,
        form,
        Written(
            FILE_NAME,
            weights,
            Counter(kind.name for _, kind in plan),
            made.notes,
            tensors=read_gguf_header(out / FILE_NAME),
        ),
        name=request.name,
        request=request,
    )
