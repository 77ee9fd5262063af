"""A GGUF file quantized as llama.cpp quantizes it, of any architecture, to the last byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from remerge.errors import CheckpointError, NumericError, RecipeError
from remerge.quantize import quantize
from remerge.quantize.formats import FORMATS
from tests.quantize.llama_quantize import CASES, KEPT, Case, digest_of, write_gguf

#: Each takes as many files as there are formats; two of them are enough for every day.
SMALL = [
    pytest.param(case, marks=() if case in (CASES[0], CASES[-2]) else pytest.mark.full)
    for case in CASES
    if case.layers <= 9
]


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_file_is_that_of_llama_cpp(case: Case, tmp_path: Path) -> None:
    source = tmp_path / "in.gguf"
    write_gguf(source, case)
    for name, theirs in json.loads(KEPT.read_text())[case.name].items():
        if case.architecture == "falcon" and FORMATS[name].sensitive:
            continue
        quantize(source, tmp_path / name, name, threads=2)
        assert digest_of(tmp_path / name / "model.gguf") == theirs["file"], name


def test_a_gguf_of_a_folder_gives_what_the_folder_gives(tiny_llama: Path, tmp_path: Path) -> None:
    quantize(tiny_llama, tmp_path / "f16", "gguf_f16")
    quantize(tiny_llama, tmp_path / "direct", "gguf_q4_k_m")
    quantize(tmp_path / "f16" / "model.gguf", tmp_path / "again", "gguf_q4_k_m")
    direct, again = (GGUFReader(tmp_path / d / "model.gguf") for d in ("direct", "again"))
    ours = {t.name: (t.tensor_type, t.data.tobytes()) for t in again.tensors}
    assert ours == {t.name: (t.tensor_type, t.data.tobytes()) for t in direct.tensors}
    assert again.fields.keys() == direct.fields.keys()
    for key, field in direct.fields.items():
        if not key.startswith("GGUF."):
            assert again.fields[key].contents() == field.contents(), key


def test_the_manifest_names_the_file_by_its_digest(tmp_path: Path) -> None:
    source = tmp_path / "in.gguf"
    write_gguf(source, Case(layers=1))
    quantize(source, tmp_path / "q", "gguf_q8_0")
    manifest = json.loads((tmp_path / "q" / "manifest.json").read_text())
    assert manifest["inputs"] == {"in.gguf": {"sha256": digest_of(source)}}


def written(path: Path, *, kind: np.dtype | type = np.float16, **numbers: int) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    for key, number in numbers.items():
        writer.add_uint32(key.replace("__", "."), number)
    writer.add_tensor("output.weight", np.ones((2, 32), kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_is_no_source_is_refused_in_one_line(tiny_llama: Path, tmp_path: Path) -> None:
    quantize(tiny_llama, tmp_path / "q8", "gguf_q8_0")
    cases = {
        "is Q8_0; only F32, F16, BF16 can be quantized": tmp_path / "q8" / "model.gguf",
        "is a part of a model; join": written(tmp_path / "part.gguf", split__count=2),
        "is I32; only F32": written(tmp_path / "int.gguf", kind=np.int32),
    }
    for says, source in cases.items():
        with pytest.raises(CheckpointError, match=says):
            quantize(source, tmp_path / "out", "gguf_q4_k_m")
    with pytest.raises(RecipeError, match="is made of a folder of safetensors"):
        quantize(written(tmp_path / "a.gguf"), tmp_path / "out", "ggml_q4_0")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_nan_in_a_gguf_file_is_told_by_tensor_and_index(tmp_path: Path) -> None:
    source = written(tmp_path / "in.gguf")
    data = bytearray(source.read_bytes())
    data[-128:-126] = struct.pack("<e", float("nan"))
    source.write_bytes(data)
    with pytest.raises(NumericError, match=r"'output.weight': nan at index \[0, 0\]"):
        quantize(source, tmp_path / "out", "gguf_q8_0")


@pytest.mark.parametrize("length", [8, 30, 60, 200])
def test_a_shortened_file_is_told(length: int, tmp_path: Path) -> None:
    source = written(tmp_path / "in.gguf")
    source.write_bytes(source.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"GGUF|too short"):
        quantize(source, tmp_path / "out", next(n for n in FORMATS if n.startswith("gguf")))
