"""The manifest's digests are those of the bytes, read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from remerge.quantize.core import reporting
from remerge.quantize.gguf.header import read_gguf_header
from remerge.tensors.json_files import read_json
from remerge.tensors.safetensors import read_header


@pytest.mark.parametrize("chunk", [1000, 1 << 22])
@pytest.mark.parametrize("name", ["gguf_q4_k_m", "gptq_4bit_128g"])
def test_whole_and_parts_are_digested_by_one_reading(
    quantized: Callable[[str], Path], name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "CHUNK", chunk)
    folder = quantized(name)
    manifest = read_json(folder / "manifest.json")
    path = folder / manifest["file"]
    tensors = (read_gguf_header if name.startswith("gguf") else read_header)(path)
    data = path.read_bytes()
    whole, parts = reporting.digests_of(path, tensors)
    assert whole == hashlib.sha256(data).hexdigest() == manifest["sha256"]
    assert parts == {
        name: hashlib.sha256(data[info.offset : info.offset + info.nbytes]).hexdigest()
        for name, info in tensors.items()
    }
    assert {name: entry["sha256"] for name, entry in manifest["tensors"].items()} == parts


def test_the_manifest_lists_every_file_beside_it(quantized: Callable[[str], Path]) -> None:
    folder = quantized("gptq_4bit_128g")
    listed = read_json(folder / "manifest.json")["files"]
    assert listed == {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
        }
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
