"""GGUF files: complete for llama.cpp, the same bytes everywhere, damage refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from remerge.errors import CheckpointError, NumericError
from remerge.quantize import quantize
from tests.quantize.runtimes import load_gguf

PROMPTS = ([1, 259, 300, 286, 310], [1, 280, 290, 301], [1, 320])
COUNT = 8

pytest.importorskip("xllamacpp")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_f16_continues_in_llama_cpp_as_the_model_does_in_transformers(
    tiny_llama: Path, quantized: Callable[[str], Path], greedy, prompt: list[int]
) -> None:
    with closing(load_gguf(quantized("gguf_f16") / "model.gguf")) as model:
        assert model.continue_greedily(prompt, COUNT) == greedy(tiny_llama, prompt, COUNT)


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"num_key_value_heads": 2}, "grouped queries"),
        ({"tie_word_embeddings": True}, "tied embeddings"),
        ({"head_dim": 32}, "heads smaller than hidden / heads"),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}, "rotary"),
        ({"extra_rows": 3}, "rows without a token"),
    ],
)
def test_other_llamas_continue_as_in_transformers(
    make_llama: Callable[..., Path], greedy, tmp_path: Path, settings: dict[str, object], note: str
) -> None:
    folder = make_llama(**settings)
    report = quantize(folder, tmp_path, "gguf_f16")
    with closing(load_gguf(tmp_path / report.file)) as model:
        expected = greedy(folder, PROMPTS[0], COUNT)
        assert model.continue_greedily(PROMPTS[0], COUNT) == expected, note


def test_bfloat16_and_float32_sources_are_taken(make_llama, tmp_path: Path) -> None:
    import torch

    for dtype in (torch.bfloat16, torch.float32):
        report = quantize(make_llama(dtype=dtype), tmp_path / str(dtype), "gguf_q4_k_m")
        assert report.tensor_types == {"F32": 9, "Q4_K": 25, "Q6_K": 5}


def test_padding_rows_and_added_tokens_are_written(make_llama, tmp_path: Path) -> None:
    from gguf import GGUFReader

    folder = make_llama(extra_rows=3)
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 336, "word": 337}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<pad>"}))
    report = quantize(folder, tmp_path, "gguf_f16")
    fields = GGUFReader(tmp_path / report.file).fields
    assert fields["tokenizer.ggml.tokens"].contents()[336:] == ["<pad>", "word", "[PAD338]"]
    assert fields["tokenizer.ggml.token_type"].contents()[336:] == [3, 4, 5]
    assert report.notes == ("1 rows of the embedding have no token: padded",)


def test_llama_cpp_splits_text_as_sentencepiece_does(
    tiny_llama: Path, quantized: Callable[[str], Path]
) -> None:
    import sentencepiece

    text = "sort  the words, é and\n42 boxes"
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tiny_llama / "tokenizer.model"))
    with closing(load_gguf(quantized("gguf_f16") / "model.gguf")) as model:
        by_text = model.log_probabilities(text)
        by_ids = model.log_probabilities([1, *tokenizer.encode(text)])
    assert np.array_equal(by_text, by_ids)


def test_the_manifest_tells_digest_size_class_and_bits(quantized: Callable[[str], Path]) -> None:
    folder = quantized("gguf_q8_0")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["class"] == "exact"
    assert manifest["size"] == (folder / "model.gguf").stat().st_size
    assert 8.5 < manifest["bits_per_weight"] < 8.6
    assert manifest["files"]["model.gguf"]["sha256"] == manifest["sha256"]


DIGEST = """
import sys
sys.path.insert(0, sys.argv[1])
from remerge.quantize import quantize
print(quantize(sys.argv[2], sys.argv[3], "gguf_q4_k_m", threads=int(sys.argv[4])).sha256)
"""


def digest(folder: Path, out: Path, threads: int, **environment: str) -> str:
    source = str(Path(__file__).parents[2] / "src")
    command = [sys.executable, "-c", DIGEST, source, str(folder), str(out), str(threads)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, check=True, capture_output=True, text=True
    )
    return done.stdout


def test_bytes_do_not_depend_on_threads_place_or_locale(
    make_llama: Callable[..., Path], tmp_path: Path
) -> None:
    # Large enough that a matrix is cut into pieces.
    folder = make_llama(intermediate_size=2816, num_hidden_layers=2)
    one = digest(folder, tmp_path / "a", 1, NUMBA_NUM_THREADS="1", LC_ALL="C", TZ="UTC")
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "x")
    many = digest(moved, tmp_path / "b", 5, LC_ALL="C.UTF-8", TZ="Asia/Tokyo")
    assert one == many != ""


@pytest.mark.full
def test_bytes_do_not_depend_on_the_processor(tiny_llama: Path, tmp_path: Path) -> None:
    plain = digest(tiny_llama, tmp_path / "a", 2, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert plain == digest(tiny_llama, tmp_path / "b", 2)


def damaged(folder: Path, to: Path, change: Callable[[bytearray], bytearray]) -> Path:
    shutil.copytree(folder, to)
    data = bytearray((folder / "model.safetensors").read_bytes())
    (to / "model.safetensors").write_bytes(change(data))
    return to


def test_a_truncated_model_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = damaged(tiny_llama, tmp_path / "m", lambda data: data[:-1000])
    with pytest.raises(CheckpointError, match="truncated") as caught:
        quantize(folder, tmp_path / "out", "gguf_q8_0")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["gguf_f16", "gguf_q8_0", "gguf_q4_k_m"])
def test_nan_is_refused_with_its_place_in_the_checkpoint(
    tiny_llama: Path, tmp_path: Path, name: str
) -> None:
    from remerge.tensors.checkpoint import open_checkpoint

    info = open_checkpoint(tiny_llama).tensors["model.layers.1.self_attn.k_proj.weight"]
    at = info.offset + 2 * (97 * 256 + 5)

    def poison(data: bytearray) -> bytearray:
        data[at : at + 2] = b"\x00\x7e"
        return data

    folder = damaged(tiny_llama, tmp_path / "m", poison)
    with pytest.raises(NumericError, match=r"layers\.1\.self_attn\.k_proj.*nan at index \[97, 5\]"):
        quantize(folder, tmp_path / "out", name)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bloom"}, "model_type is 'bloom'; GGUF can be written for llama, mistral"),
        ({"hidden_size": 128}, "config.json implies"),
        ({"num_hidden_layers": 3}, "has no place in a llama file"),
        ({"num_hidden_layers": 5}, "is missing"),
        ({"vocab_size": -1}, "must be a positive integer"),
        ({"rope_parameters": {"rope_type": "ntk", "rope_theta": 1e4}}, "default, linear, yarn"),
        ({"rope_parameters": [4.0]}, r"rope_parameters is \[4.0\], not a table"),
        ({"rope_scaling": "yarn"}, "rope_scaling is yarn, not a table"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "cannot be written|must be a list"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    tiny_llama: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    config.pop("head_dim", None)
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=message):
        quantize(folder, tmp_path / "out", "gguf_f16")


@pytest.mark.parametrize("cut", [0, 1, 40, 3000])
def test_a_damaged_tokenizer_is_refused(tiny_llama: Path, tmp_path: Path, cut: int) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "m"))
    data = (folder / "tokenizer.model").read_bytes()
    (folder / "tokenizer.model").write_bytes(data[:cut])
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        quantize(folder, tmp_path / "out", "gguf_f16")


def test_a_model_without_sentencepiece_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "m"))
    (folder / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.model and no tokenizer\.json"):
        quantize(folder, tmp_path / "out", "gguf_f16")
