"""Write a Llama model folder as one GGUF file that llama.cpp runs without anything else.

>>> quantize(Path("merged/final"), Path("quantized/gguf_q4_k_m"), "gguf_q4_k_m").bits_per_weight

The container comes from the `gguf` package, the numbers from this library's own exact kernels. The
bytes depend on the model folder and the format alone: no time, no path, no host, and neither the
number of threads nor the processor (class *exact*). Norms stay float32.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count, fsync
from pathlib import Path
from typing import BinaryIO

from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType

from remerge.atomic import publish, temporary_path
from remerge.progress import track
from remerge.quantize.encoding import BlockType, encode
from remerge.quantize.formats import of_container
from remerge.quantize.llama import LlamaShape, LlamaTensor, llama_tensors, read_shape
from remerge.quantize.mixture import MIXTURES, choose_type
from remerge.quantize.reporting import QuantReport, write_report
from remerge.quantize.vocabulary import Vocabulary, read_vocabulary
from remerge.shards.threads import require_ieee_arithmetic
from remerge.tensors.checkpoint import open_checkpoint, read_config

FILE_NAME = "model.gguf"
ALIGNMENT = 32
_QUANTIZATION_VERSION = 2

#: The Alpaca prompt, which the model cards of the family ask for.
ALPACA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}"
    "{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)


def tensor_name(tensor: LlamaTensor) -> str:
    """The name in the file: `blk.3.attn_q.weight`, `output.weight`."""
    place = f"blk.{tensor.layer}." if tensor.layer >= 0 else ""
    return f"{place}{tensor.part}.weight"


def _describe_model(writer: GGUFWriter, shape: LlamaShape, name: str, file_type: int) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(shape.rms_epsilon)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    if shape.head_size * shape.heads != shape.hidden:
        writer.add_key_length(shape.head_size)
        writer.add_value_length(shape.head_size)
    if shape.rope_factor != 1.0:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(shape.rope_factor)


def _describe_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text.encode() for text in vocabulary.texts])
    writer.add_token_scores(list(vocabulary.scores))
    writer.add_token_types(list(vocabulary.kinds))
    setters = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for role, add in setters.items():
        if role in vocabulary.special:
            add(vocabulary.special[role])
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_add_space_prefix(vocabulary.space_prefix)
    writer.add_chat_template(ALPACA_TEMPLATE)


def _write_header(writer: GGUFWriter, plan: list[tuple[LlamaTensor, BlockType]]) -> None:
    for tensor, kind in plan:
        writer.add_tensor_info(
            tensor_name(tensor),
            tensor.info.shape,
            None,  # the number type: stands in the last argument
            kind.size(tensor.info.size),
            GGMLQuantizationType(kind.code),
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def write_tensors(
    file: BinaryIO, plan: list[tuple[LlamaTensor, BlockType]], threads: int, label: str
) -> None:
    """Append the tensors of a GGUF file, each padded to the alignment, behind its header."""
    total = sum(tensor.info.nbytes for tensor, _ in plan)
    with ThreadPoolExecutor(threads) as pool, track(total, label) as bar:
        for tensor, kind in plan:
            file.write(bytes(-file.tell() % ALIGNMENT))
            pieces = encode(tensor, kind, pool, depth=2 * threads)
            file.writelines(piece.data for piece in pieces)
            bar.advance(tensor.info.nbytes)
        file.write(bytes(-file.tell() % ALIGNMENT))


def quantize(
    model_folder: Path | str,
    out_folder: Path | str,
    format_name: str,
    *,
    threads: int | None = None,
    calibration: Path | None = None,
    name: str = "merge",
) -> QuantReport:
    """Write `out_folder`/model.gguf and manifest.json from the Llama in `model_folder`.

    `threads` (default: all cores) changes the time, never a byte; `calibration` is not used by
    these formats; `name` is what the file says of itself (`general.name`). CheckpointError for a
    folder that is damaged or no Llama with a SentencePiece tokenizer, NumericError for NaN or Inf.
    """
    require_ieee_arithmetic()
    form = of_container(format_name, "gguf")
    model_folder, out_folder = Path(model_folder), Path(out_folder)
    mixture = MIXTURES[format_name]
    shape = read_shape(read_config(model_folder), str(model_folder))
    tensors = llama_tensors(open_checkpoint(model_folder), shape)
    vocabulary = read_vocabulary(model_folder, shape.vocabulary)
    plan = [(tensor, choose_type(tensor, mixture, shape)) for tensor in tensors]
    out_folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(out_folder / FILE_NAME)
    try:
        writer = GGUFWriter(temporary, "llama")
        _describe_model(writer, shape, name, mixture.file_type)
        _describe_vocabulary(writer, vocabulary)
        _write_header(writer, plan)
        with temporary.open("ab") as file:
            write_tensors(file, plan, threads or cpu_count() or 1, format_name)
            file.flush()
            fsync(file.fileno())
        publish(temporary, out_folder / FILE_NAME)
    finally:
        temporary.unlink(missing_ok=True)
    return write_report(
        out_folder,
        form,
        FILE_NAME,
        sum(tensor.info.size for tensor in tensors),
        Counter(kind.name for _, kind in plan),
        vocabulary.notes,
    )
