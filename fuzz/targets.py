"""The readers of untrusted bytes, each as a function that a fuzzer calls with anything.

A target returns, or fails: RemergeError with a printable line is what a reader owes untrusted
bytes, so the targets take it for a result. Everything else that is raised is a finding.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fuzz import proof, texts
from fuzz.running import Target
from fuzz.running import checked as _checked
from fuzz.running import scratch as _scratch
from remerge.adapters.peft_files import adapter_from_header, check_adapter_config
from remerge.pins.recipe_text import read_entries
from remerge.quantize.ggml.header import read_ggml_header
from remerge.quantize.gguf.header import read_gguf_header
from remerge.sources.pickles import open_pickle
from remerge.sources.pinned import parse_sources
from remerge.sources.remote import _local_header, _records
from remerge.stages.params import check_params
from remerge.tensors.checkpoint import read_index
from remerge.tensors.json_files import parse_json_object
from remerge.tensors.layout import header_bytes, plan_shards
from remerge.tensors.safetensors import TensorInfo, parse_header
from remerge.vocabulary.tokenizer import parse_sentencepiece, token_ids_of

WHERE = Path("fuzzed")
ROOT = Path(__file__).resolve().parents[1]


def header(data: bytes) -> None:
    """A safetensors header; what is accepted can be laid out and written again"""
    size = 8 + len(data) + int.from_bytes(data[-3:], "little") % 512
    found = _checked(lambda: parse_header(data, WHERE, size))
    if found:
        from remerge.tensors.layout import OutputTensor

        outputs = [OutputTensor(t.name, t.dtype, t.shape) for t in found.values()]
        assert plan_shards(outputs, 10**9) and header_bytes(outputs)


def index(data: bytes) -> None:
    """model.safetensors.index.json"""
    path = _scratch() / "index.json"
    path.write_bytes(data)
    _checked(lambda: read_index(path))


def adapter(data: bytes) -> None:
    """adapter_config.json, held against the matrices of an adapter"""

    def read() -> None:
        config = parse_json_object(data, "adapter_config.json")
        check_adapter_config(config, "adapter_config.json")
        tensors = {
            f"base_model.model.{module}.lora_{part}.weight": TensorInfo(
                f"{module}.lora_{part}", "F16", shape, WHERE, 0, 16
            )
            for module in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj")
            for part, shape in (("A", (2, 4)), ("B", (4, 2)))
        }
        adapter_from_header(config, tensors, WHERE, "fuzzed")

    _checked(read)


@cache
def _params() -> str:
    return json.dumps(yaml.safe_load((ROOT / "params.yaml").read_text()))


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")


#: Where in the parameters a value is put: the first byte of the data chooses.
_PLACES = (
    (), ("ties",), ("ties", "density"), ("ties", "lambda"), ("gradient",), ("gradient", "values"),
    ("recipe",), ("recipe", "bakes"), ("recipe", "bakes", "lookup"), ("recipe", "merges"),
    ("recipe", "merges", "p1"), ("recipe", "merges", "p1", "models"),
    ("recipe", "merges", "p1", "models", "lookup"), ("recipe", "base"), ("recipe", "shard_bytes"),
    ("recipe", "formats"), ("recipe", "score"), ("pins",), ("fetch",), ("places", "p1"),
    ("bake_loras",), ("quantize_eval",), ("execution",), ("report",), ("quantize",),
    ("collect",), ("digests",),
)  # fmt: skip


def recipe(data: bytes) -> None:
    """params.yaml: any JSON value in any place of a sound recipe, or any text as YAML"""
    if not data:
        return
    place = _PLACES[data[0] % len(_PLACES)]
    value = _json(data[1:])
    params: Any = json.loads(_params())
    if not place:
        params = value if isinstance(value, Mapping) else {"recipe": value}
    else:
        holder = params
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = value

    def read() -> None:
        check_params(params)

    _checked(read)


_ENTRY = {"kind": "model", "repo": "a/b", "revision": "0" * 40}


def pin(data: bytes) -> None:
    """The sources of a recipe and their pins; one time in 64 as the text of a YAML file"""
    if data[:1] == b"\x40":
        _checked(lambda: read_entries(data[1:].decode("utf-8", "replace"), "sources.yaml"))
        return
    value = _json(data[1:])
    entry = {**_ENTRY, **value} if isinstance(value, dict) and data[0] % 2 else value
    _checked(lambda: parse_sources({"name": "fuzzed", "sources": {"s": entry}}))


def pickle(data: bytes) -> None:
    """A torch archive: any program in a sound archive, or any bytes as an archive"""
    if data[:1] == b"\x40":
        content = data[1:]
    else:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("archive/data.pkl", data[1:])
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/data/0", bytes(64))
            archive.writestr("archive/version", "3\n")
        content = made.getvalue()
    path = _scratch() / "model.bin"
    path.write_bytes(content)
    _checked(lambda: open_pickle(path))


def archive(data: bytes) -> None:
    """The directory of a torch archive on a hub, of which only the end and the headers are read"""
    path = _scratch() / "holes.bin"
    path.write_bytes(data)
    try:
        records = _checked(lambda: _records(path, WHERE)) or []
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # what the reader looks out for
        return
    for record in records:
        assert _local_header(record)


def tokenizer(data: bytes) -> None:
    """tokenizer.model; for an odd first byte tokenizer.json, as the numbers of its tokens"""
    if data[:1] and data[0] % 2:
        path = _scratch() / "tokenizer.json"
        path.write_bytes(data[1:])
        _checked(lambda: token_ids_of({path.name: path}, "fuzzed"))
    else:
        _checked(lambda: parse_sentencepiece(data[1:], "fuzzed"))


def gguf(data: bytes) -> None:
    """The header of a GGUF file"""
    path = _scratch() / "model.gguf"
    path.write_bytes(data)
    _checked(lambda: read_gguf_header(path))


def ggml(data: bytes) -> None:
    """The header of a GGML file"""
    path = _scratch() / "model.bin"
    path.write_bytes(data)
    _checked(lambda: read_ggml_header(path))


def _zip_of(records: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as written:
        for name, content in records.items():
            written.writestr(name, content)
    return made.getvalue()


TARGETS: dict[str, Target] = {
    "header": header,
    "index": index,
    "adapter": adapter,
    "recipe": recipe,
    "pin": pin,
    "pickle": pickle,
    "archive": archive,
    "tokenizer": tokenizer,
    "gguf": gguf,
    "ggml": ggml,
    **proof.TARGETS,
    **texts.TARGETS,
}

#: Inputs to begin with.
SEEDS: dict[str, list[bytes]] = {
    "header": [
        b"{}",
        b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}',
    ],
    "index": [
        b'{"metadata":{"total_size":2},"weight_map":{"a":"model-00001-of-00002.safetensors"}}'
    ],
    "adapter": [
        b'{"peft_type":"LORA","r":2,"lora_alpha":4,"rank_pattern":{"q_proj":2},'
        b'"alpha_pattern":{"up_proj":1.5},"use_rslora":true,"modules_to_save":["lm_head"]}'
    ],
    "recipe": [bytes([n]) + b"[0.1, 1]" for n in range(len(_PLACES))],
    "pin": [
        b'\x01{"files":{"config.json":{"sha256":"' + b"0" * 64 + b'","size":1}},"out":"models/s"}',
        b'\x00{"kind":"adapter","path":"a/b","files":{}}',
        b"\x40sources:\n  base:\n    kind: model\n    repo: a/b\n",
    ],
    "pickle": [
        b"\x00\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\nHalfStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x20tQK\x00K\x20\x85K\x01\x85\x89"
        b"ccollections\nOrderedDict\n)RtRs.",
    ],
    "archive": [_zip_of({"archive/data.pkl": b"\x80\x02}.", "archive/data/0": bytes(8)})],
    "tokenizer": [
        b"\x00\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02\x0a\x08\x0a\x01a\x15\x00\x00\x80\xbf",
        b'\x01{"model":{"vocab":{"a":0}},"added_tokens":[{"id":1,"content":"<s>"}]}',
    ],
    "gguf": [
        b"GGUF"
        + struct.pack("<IQQ", 3, 1, 1)
        + struct.pack("<Q9sIQ5s", 9, b"general.a", 8, 5, b"llama")
        + struct.pack("<Q1sIQIQ", 1, b"w", 1, 8, 0, 0)
        + bytes(80)
    ],
    "ggml": [
        b"tjgg"
        + struct.pack("<8I", 3, 1, 32, 32, 1, 1, 16, 0)
        + struct.pack("<I1sf", 1, b"a", 0.0)
        + struct.pack("<4I1s", 1, 1, 0, 8, b"w")
        + bytes(64)
    ],
    **proof.SEEDS,
    **texts.SEEDS,
}

#: (target, what was found, what holds now). By the fuzzer where that is said; else by writing the
#: rows above, or by hypothesis, on the way to targets in which the fuzzer found nothing more.
FINDINGS: tuple[tuple[str, str, str], ...] = (
    ("header", "a duplicate key among millions was searched for in quadratic time", "counted once"),
    ("header, pickle", "half a surrogate pair in a tensor's name ended in a traceback when the "
     "result was written", "refused when it is read"),
    ("pickle", "strides of 0 let two bytes pose as a tensor of terabytes", "refused: a tensor "
     "larger than its storage"),
    ("index, pin", "names equal but for case or Unicode normalisation were two files", "refused"),
    ("adapter, recipe", "a whole number of 400 digits ended in OverflowError", "out of range"),
    ("adapter", "modules_to_save that is no list ended in TypeError", "taken for none"),
    ("recipe", "anchors in YAML made the error message itself grow without bound", "shown cut"),
    ("recipe", "an output could lie outside of the project", "refused"),
    ("pin", "an entry, its files or its config that is no table ended in a traceback", "refused"),
    ("pin", "an address in HF_ENDPOINT with a port that is no number ended in a traceback",
     "named without its password"),
    ("config.json", "a billion layers were built before anything was checked", "refused: more "
     "layers than tensors"),
    ("manifest.json", "an order with numbers in place of names ended in KeyError", "refused"),
    ("tensor names", "superscript digits and numbers of thousands of digits ended in ValueError",
     "ordered as text and by length"),
    ("code", "random inputs: the name of an entry that asks for code was shown with its control "
     "characters", "escaped"),
    ("vocabulary", "a key of thousands of digits in added_tokens_decoder ended in ValueError",
     "passed over: it is no number of a token"),
    ("vocabulary", "a token of a megabyte was cut in two in a million ways", "refused"),
    ("signature", "a bundle of any length and depth was read whole", "bounded, of one form"),
    ("pin", "the fuzzer, in the text of a sources file: a table as the key of a table ends in "
     "TypeError within the YAML library", "refused"),
)  # fmt: skip
