"""llama.cpp's own quantizer: which type it gives each tensor, and the file it writes.

    python -m tests.quantize.llama_quantize FOLDER

`llama_model_quantize` is not among the functions that the xllamacpp wheel exports, so it is called
in the shared objects of the npm package `@node-llama-cpp/linux-x64` (3.22.1, llama.cpp v0.5.0):
FOLDER is its `bins/linux-x64`. The types that it chose are kept in `llama_types.json`, which this
program writes and the tests read, beside the digest of each whole file.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from gguf import GGUFReader, GGUFWriter

from remerge.quantize.formats import FORMATS

KEPT = Path(__file__).with_name("llama_types.json")
NAMES = [name for name, form in FORMATS.items() if form.container == "gguf"]


@dataclass(frozen=True)
class Case:
    """A model of random numbers; without experts where there are 0; `fused`: attn_qkv is one."""

    architecture: str = "llama"
    layers: int = 8
    hidden: int = 256
    heads: int = 4
    kv_heads: int = 4
    experts: int = 0
    tied: bool = False
    fused: bool = False

    @property
    def name(self) -> str:
        return " ".join(f"{key}={value}" for key, value in asdict(self).items())

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shape by name, columns last: two rows are enough for a type to be chosen."""
        row = (2, self.hidden)
        found: dict[str, tuple[int, ...]] = {"token_embd.weight": row}
        for layer in range(self.layers):
            parts: dict[str, tuple[int, ...]] = {"attn_norm": (self.hidden,)}
            projections = ["attn_qkv"] if self.fused else ["attn_q", "attn_k", "attn_v"]
            parts |= dict.fromkeys([*projections, "attn_output"], row)
            parts["ffn_norm"] = (self.hidden,)
            if self.experts:
                parts["ffn_gate_inp"] = (self.experts, self.hidden)
                parts |= {f"ffn_{p}_exps": (self.experts, *row) for p in ("gate", "up")}
                parts["ffn_down_exps"] = (self.experts, 2, 256)
            else:
                parts |= {"ffn_gate": row, "ffn_up": row, "ffn_down": (2, 512)}
            found |= {f"blk.{layer}.{part}.weight": shape for part, shape in parts.items()}
        found["output_norm.weight"] = (self.hidden,)
        return found if self.tied else {**found, "output.weight": row}


CASES = (
    Case(),
    Case(layers=32),
    Case(layers=5, kv_heads=1),
    Case(layers=80, kv_heads=2),
    Case(layers=80),
    Case("qwen2", layers=80, kv_heads=1),
    Case("qwen3", layers=80, kv_heads=1),
    Case("gemma2", layers=6, kv_heads=2, tied=True),
    Case("phi3", layers=9, fused=True),
    Case("starcoder2", layers=7, kv_heads=2),
    Case("gpt2", layers=7, fused=True),
    Case("falcon", layers=16, kv_heads=1, fused=True),
    Case(layers=9, experts=8, kv_heads=1),
    Case(layers=5, experts=4),
    Case("qwen3moe", layers=6, experts=16, kv_heads=1),
    Case(hidden=160),
    Case(hidden=160, tied=True, kv_heads=2),
    Case(hidden=48),
)


def write_gguf(path: Path, case: Case) -> None:
    """The model of a case as a float16 GGUF, just enough for llama.cpp to read its sizes."""
    writer = GGUFWriter(path, case.architecture)
    writer.add_block_count(case.layers)
    writer.add_context_length(128)
    writer.add_embedding_length(case.hidden)
    writer.add_feed_forward_length(512)
    writer.add_head_count(case.heads)
    writer.add_head_count_kv(case.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(64)
    writer.add_rope_dimension_count(case.hidden // case.heads)
    writer.add_sliding_window(64)
    if case.experts:
        writer.add_expert_count(case.experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(256)
    writer.add_tokenizer_model("no_vocab")
    draw = np.random.default_rng(3)
    for name, shape in case.tensors().items():
        values = draw.standard_normal(shape, np.float32) * np.float32(0.02)
        writer.add_tensor(name, values.astype(np.float32 if len(shape) < 2 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class _Params(ctypes.Structure):
    _fields_ = [
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int32),
        ("output_tensor_type", ctypes.c_int32),
        ("token_embedding_type", ctypes.c_int32),
        ("flags", ctypes.c_bool * 6),
        ("pointers", ctypes.c_void_p * 4),
        ("spare", ctypes.c_uint64 * 4),
    ]


class LlamaCpp:
    """The functions of the shared objects in a folder."""

    def __init__(self, folder: Path) -> None:
        for name in ("libggml-base.so", "libggml*.v*.so", "libllama.v*.so"):
            (path,) = folder.glob(name)
            self._library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        self._library.llama_model_quantize_default_params.restype = _Params
        self._library.llama_model_quantize.argtypes = [*[ctypes.c_char_p] * 2, ctypes.c_void_p]
        self._library.llama_model_quantize.restype = ctypes.c_uint32
        callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self._silent = callback(lambda *_: None)
        self._library.llama_log_set(self._silent, None)

    def quantize(self, source: Path, target: Path, file_type: int, threads: int = 1) -> None:
        """Write `target`; AssertionError if llama.cpp refuses."""
        params = self._library.llama_model_quantize_default_params()
        params.ftype, params.nthread = file_type, threads
        names = [str(path).encode() for path in (source, target)]
        assert self._library.llama_model_quantize(*names, ctypes.byref(params)) == 0


def types_of(path: Path) -> dict[str, str]:
    """Type by tensor of a GGUF file, in the order of the file."""
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


def by_part(types: Mapping[str, str]) -> dict[str, str]:
    """The types of each part of a layer, layer after layer: `Q6_K*2 Q4_K*5`."""
    layers: dict[str, dict[int, str]] = {}
    for tensor, kind in types.items():
        place, _, part = tensor.removesuffix(".weight").rpartition(".")
        layers.setdefault(part, {})[int(place.removeprefix("blk.") or -1)] = kind
    return {
        part: " ".join(
            f"{kind}*{len(list(run))}" for kind, run in groupby(found[i] for i in sorted(found))
        )
        for part, found in sorted(layers.items())
    }


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Write what llama.cpp chooses for every case and format."""
    library = LlamaCpp(Path(sys.argv[1]))
    kept: dict[str, dict[str, dict[str, str]]] = {}
    with TemporaryDirectory() as folder:
        for case in CASES:
            source, target = Path(folder, "in.gguf"), Path(folder, "out.gguf")
            write_gguf(source, case)
            kept[case.name] = {}
            for name in NAMES:
                library.quantize(source, target, FORMATS[name].file_type)
                kept[case.name][name] = by_part(types_of(target)) | {"file": digest_of(target)}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
