"""Perplexity and divergence: those of transformers, but in float64 all the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from remerge.errors import RecipeError
from remerge.quantize.core.corpus import calibration_windows, read_passages
from remerge.quantize.core.forward import log_probabilities
from remerge.quantize.core.llama import LlamaShape, read_shape
from remerge.quantize.core.perplexity import measure
from remerge.quantize.core.weights import checkpoint_weights, quantized_weights
from remerge.tensors.checkpoint import read_config


def shape_of(folder: Path) -> LlamaShape:
    return read_shape(read_config(folder), "model")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_key_value_heads": 2},
        {"tie_word_embeddings": True},
        {"rope_parameters": {"rope_theta": 5e4, "rope_type": "linear", "factor": 2.0}},
    ],
)
def test_the_forward_pass_is_that_of_transformers(
    make_llama: Callable[..., Path], settings: dict[str, object]
) -> None:
    import torch
    from transformers import LlamaForCausalLM

    folder = make_llama(num_hidden_layers=2, **settings)
    draw = np.random.default_rng(3)
    windows = [draw.integers(3, 336, size) for size in (40, 7, 1)]
    shape = shape_of(folder)
    ours = list(log_probabilities(shape, checkpoint_weights(folder, shape), windows))
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64)
    for window, rows in zip(windows, ours, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor(window)[None]).logits[0]
        # transformers has parts in float32 even here.
        assert np.abs(rows - torch.log_softmax(logits, -1).numpy()).max() < 2e-4


@pytest.mark.parametrize("name", ["gguf_f16", "ggml_f16"])
def test_float16_files_hold_the_weights_exactly(
    tiny_llama: Path, quantized: Callable[[str], Path], name: str
) -> None:
    shape = shape_of(tiny_llama)
    before = checkpoint_weights(tiny_llama, shape)
    after = quantized_weights(quantized(name), shape, tiny_llama)
    places = [("token_embd", -1), ("attn_q", 1), ("attn_k", 3), ("ffn_down", 0), ("output", -1)]
    for part, layer in places:
        assert np.array_equal(before(part, layer), after(part, layer))


def test_a_lossless_format_has_no_divergence_and_fewer_bits_have_more(
    tiny_llama: Path, quantized: Callable[[str], Path], text: Path
) -> None:
    names = ("gguf_f16", "gguf_q8_0", "gguf_q6_k", "gguf_q5_k_m", "gguf_q4_k_m")
    found = [measure(tiny_llama, quantized(name), text, windows=3) for name in names]
    assert found[0].divergence == 0
    assert found[0].agreement == 1
    assert found[0].perplexity == found[0].reference_perplexity
    divergences = [each.divergence for each in found]
    assert divergences == sorted(divergences)
    assert {each.tokens for each in found} == {3 * 255}


def test_of_questions_only_the_answers_count(tiny_llama: Path, tmp_path: Path) -> None:
    import sentencepiece

    path = tmp_path / "questions.jsonl"
    items = [{"prompt": "add 1 2=", "answer": "3"}, {"prompt": "sort b a=", "answer": "a b"}]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    passages = read_passages(tiny_llama, [path], 336, 256, 8)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tiny_llama / "tokenizer.model"))
    for item, passage in zip(items, passages, strict=True):
        asked, answered = np.split(passage.ids, [passage.first])
        assert asked.tolist() == [1, *tokenizer.encode(item["prompt"])]
        assert tokenizer.decode(answered.tolist()[:-1]).strip() == item["answer"]
        assert answered[-1] == 2


def test_calibration_and_measurement_read_different_halves(tiny_llama: Path, text: Path) -> None:
    calibrated = calibration_windows(tiny_llama, text, 336, 64, 10_000)
    measured = [passage.ids for passage in read_passages(tiny_llama, [text], 336, 64, 10_000)]
    assert not {window.tobytes() for window in calibrated} & {ids.tobytes() for ids in measured}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.jsonl", b'{"prompt": "x"}\n', "line 1: needs a prompt and an answer"),
        ("a.jsonl", b"", "nothing in it can be predicted"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused(
    tiny_llama: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        read_passages(tiny_llama, [tmp_path / name], 336, 256, 8)
