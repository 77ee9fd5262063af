"""Every key of a file's header, for a model whose every number is its own."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from gguf import GGUFReader

from remerge.quantize import quantize
from remerge.quantize.formats import FORMATS
from tests.quantize.conftest import SENTENCES, VOCABULARY

#: ggml's numbers of whole files (`enum llama_ftype`).
GGUF_FILE_TYPES = {
    "gguf_f16": 1,
    "gguf_q4_0": 2,
    "gguf_q8_0": 7,
    "gguf_q5_0": 8,
    "gguf_q4_k_m": 15,
    "gguf_q5_k_m": 17,
    "gguf_q6_k": 18,
    "gguf_bf16": 32,
    "gguf_q5_1": 9,
    "gguf_q5_k_s": 16,
    "gguf_q4_1": 3,
    "gguf_q4_k_s": 14,
    "gguf_iq4_nl": 25,
    "gguf_iq4_xs": 30,
    "gguf_q3_k_l": 13,
    "gguf_q3_k_m": 12,
    "gguf_q3_k_s": 11,
    "gguf_q2_k": 10,
}
GGML_FILE_TYPES = {
    "ggml_f16": 1,
    "ggml_q4_0": 2,
    "ggml_q8_0": 7,
    "ggml_q5_1": 9,
    "ggml_q6_k": 18,
    "ggml_q5_k_m": 17,
    "ggml_q5_k_s": 16,
    "ggml_q5_0": 8,
    "ggml_q4_1": 3,
    "ggml_q4_k_m": 15,
    "ggml_q4_k_s": 14,
    "ggml_q3_k_l": 13,
    "ggml_q3_k_m": 12,
    "ggml_q3_k_s": 11,
    "ggml_q2_k": 10,
}


@pytest.fixture(scope="module")
def unusual(make_llama: Callable[..., Path]) -> Path:
    """A model that shares no number with another, special tokens included."""
    folder = make_llama(
        hidden_size=192,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=48,
        max_position_embeddings=384,
        rms_norm_eps=3e-6,
        rope_parameters={"rope_type": "linear", "rope_theta": 54321.0, "factor": 4.0},
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    named = {"bos": 301, "eos": 17, "unk": 0, "pad": 305}
    settings |= {f"{role}_token": pieces.id_to_piece(token) for role, token in named.items()}
    settings |= {"add_bos_token": False, "add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def pieces_of(folder: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def kind_of(pieces: Any, token: int) -> int:
    """Ggml's number for the kind of a token."""
    kinds = [(pieces.is_unknown, 2), (pieces.is_control, 3), (pieces.is_byte, 6)]
    return next((kind for is_kind, kind in kinds if is_kind(token)), 1)


@pytest.mark.parametrize("name", GGUF_FILE_TYPES)
def test_a_gguf_header_says_what_the_configuration_says(
    unusual: Path, tmp_path: Path, name: str
) -> None:
    quantize(unusual, tmp_path, name, name="A name", prompt="raw")
    fields = GGUFReader(tmp_path / "model.gguf").fields
    found = {key: field.contents() for key, field in fields.items() if key[0] != "G"}
    pieces = pieces_of(unusual)
    tokens = range(VOCABULARY)
    assert found.pop("tokenizer.ggml.tokens") == [pieces.id_to_piece(i) for i in tokens]
    scores = found.pop("tokenizer.ggml.scores")
    # Plain pieces that are special tokens are added tokens for transformers: found before others.
    added = {301, 305}
    assert scores == [-1000.0 if i in added else pieces.get_score(i) for i in tokens]
    assert len(set(scores)) > 50
    kinds = [3 if i in added else kind_of(pieces, i) for i in tokens]
    assert found.pop("tokenizer.ggml.token_type") == kinds
    assert found.pop("llama.attention.layer_norm_rms_epsilon") == pytest.approx(3e-6)
    assert found == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "A name",
        "general.file_type": GGUF_FILE_TYPES[name],
        "general.quantization_version": 2,
        "llama.vocab_size": VOCABULARY,
        "llama.context_length": 384,
        "llama.embedding_length": 192,
        "llama.block_count": 3,
        "llama.feed_forward_length": 320,
        "llama.attention.head_count": 6,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 48,
        "llama.attention.value_length": 48,
        "llama.rope.dimension_count": 48,
        "llama.rope.freq_base": 54321.0,
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 4.0,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.bos_token_id": 301,
        "tokenizer.ggml.eos_token_id": 17,
        "tokenizer.ggml.eot_token_id": 2,  # what config.json ends a text with
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 305,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
    }


def test_every_format_has_its_number() -> None:
    numbered = {*GGUF_FILE_TYPES, *GGML_FILE_TYPES}
    assert numbered == {name for name in FORMATS if not name.startswith("gptq")}


@pytest.mark.parametrize("name", GGML_FILE_TYPES)
def test_a_ggml_header_says_what_the_configuration_says(
    tiny_llama: Path, quantized: Callable[[str], Path], name: str
) -> None:
    data = (quantized(name) / "model.ggml").read_bytes()
    assert data[:4] == b"tjgg"
    # version, vocabulary, hidden, multiple, heads, layers, rotary size, file type
    expected = (3, VOCABULARY, 256, 256, 4, 4, 64, GGML_FILE_TYPES[name])
    assert struct.unpack_from("<8I", data, 4) == expected
    pieces, at = pieces_of(tiny_llama), 36
    for token in range(VOCABULARY):
        (length,) = struct.unpack_from("<I", data, at)
        text = data[at + 4 : at + 4 + length]
        (score,) = struct.unpack_from("<f", data, at + 4 + length)
        at += 8 + length
        special = {2: " \u2047 ".encode(), 3: b"", 6: bytes([token - 3 & 255])}
        plain = pieces.id_to_piece(token).replace("\u2581", " ").encode()
        assert text == special.get(kind_of(pieces, token), plain)
        assert score == np.float32(pieces.get_score(token))


def test_ctransformers_splits_text_as_sentencepiece_does(
    tiny_llama: Path, quantized: Callable[[str], Path]
) -> None:
    pytest.importorskip("ctransformers")
    from remerge.runtimes.programs import legacy_tokens, open_ctransformers

    path = quantized("ggml_f16") / "model.ggml"
    model = open_ctransformers(path, context=512, threads=1)
    pieces = pieces_of(tiny_llama)
    for text in (*SENTENCES, "sort  the words, é and\n42 boxes", "漢字"):
        assert legacy_tokens(model, text, False) == pieces.encode(text)
        assert legacy_tokens(model, text, True) == [1, *pieces.encode(text)]
