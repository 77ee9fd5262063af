"""A tiny random Llama with a SentencePiece tokenizer, saved as transformers saves one."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

SENTENCES = (
    "the quick brown fox jumps over the lazy dog",
    "### Instruction: add 12 and 30 ### Response: 42",
    "sort the words pear apple fig and count the letters of each",
    "a merge of models is the mean of their differences from the base",
    "reverse the string, close the brackets, find the largest of 7, 81 and 9",
)
HIDDEN, FEED_FORWARD, VOCABULARY = 256, 768, 336


def train_tokenizer(size: int) -> bytes:
    """A BPE `tokenizer.model` with byte fallback and `size` pieces, as Llama's is."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def save_llama(folder: Path, *, extra_rows: int = 0, **overrides: object) -> Path:
    """Write a random Llama of fixed seed, float16 unless `dtype` says otherwise, into `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    dtype = overrides.pop("dtype", torch.float16)
    settings: dict[str, object] = {
        "vocab_size": VOCABULARY + extra_rows,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        # Wide enough that greedy choices are far apart and a wrong weight shows.
        "initializer_range": 0.08,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(20231)
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **overrides}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.uniform_(0.5, 1.5)
    model.to(dtype).save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(train_tokenizer(VOCABULARY))
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny float16 Llama."""
    return save_llama(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="session")
def make_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save further tiny Llamas with other settings."""

    def make(**settings: object) -> Path:
        return save_llama(tmp_path_factory.mktemp("other") / "llama", **settings)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def quantized(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the tiny Llama in a format, made once."""
    from remerge.quantize import quantize

    folder = tmp_path_factory.mktemp("quantized")
    text = write_text(folder / "text.txt")

    @cache
    def make(name: str) -> Path:
        quantize(tiny_llama, folder / name, name, calibration=text, prompt="alpaca")
        return folder / name

    return make


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain text of which the halves differ."""
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


def write_text(path: Path) -> Path:
    """Sentences whose words change places with a fixed seed, 200 lines."""
    draw = random.Random(12)
    words = " ".join(SENTENCES).split()
    path.write_text("".join(" ".join(draw.sample(words, 9)) + "\n" for _ in range(200)))
    return path


@pytest.fixture(scope="session")
def greedy() -> Callable[[Path, list[int], int], list[int]]:
    """The greedy continuation of a prompt by transformers, in float64."""

    def continue_greedily(folder: Path, prompt: list[int], count: int) -> list[int]:
        import torch
        from transformers import LlamaForCausalLM

        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64)
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(count):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(prompt) :]

    return continue_greedily
