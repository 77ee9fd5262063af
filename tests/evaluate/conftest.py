"""A tiny Llama with random weights and a real SentencePiece tokenizer, made once a session."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

TEXT = (
    "add sort reverse count look up close maximum date question answer the of a and is in to that "
    "what which who when where why how many much one two three four five six seven eight nine ten "
    "A. B. C. D. Answer : Question : 0 1 2 3 4 5 6 7 8 9 + = - ( ) [ ] ; : , . ? ! # $ a b c d e f "
    "stone river lamp horse cloud bread candle ladder drum basket window garden old red quiet "
    "heavy round empty warm sharp slow bright soft narrow these number "
    "lift look puts down done step head"
)


def make_tokenizer(folder: Path) -> None:
    """Write `tokenizer.model` and the two JSON files that name its special tokens."""
    import sentencepiece

    words = TEXT.split()
    lines = [" ".join(words[i:] + words[:i]) for i in range(len(words))]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 4),
        model_writer=model,
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=True,
        hard_vocab_limit=False,
        user_defined_symbols=["####"],
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizer",
                "add_bos_token": True,
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
            }
        )
    )


def pieces_of(folder: Path) -> list[str]:
    """The pieces of the vocabulary in the order of their ids."""
    import sentencepiece

    vocabulary = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return [vocabulary.id_to_piece(i) for i in range(vocabulary.vocab_size())]


def make_model(folder: Path, seed: int = 0) -> Path:
    """A random Llama of some 100 thousand parameters in `folder`, as the stages write one."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(folder)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(pieces_of(folder)),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    transformers.LlamaForCausalLM(config).half().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model with random weights."""
    return make_model(tmp_path_factory.mktemp("models") / "random")


def make_chain_model(folder: Path, pieces: list[str]) -> Path:
    """A Llama that, after any piece of `pieces`, says the next one.

    Attention and feed-forward add nothing, the embedding is the identity and the head holds the
    chain, so what it generates can be read off the list.
    """
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(folder)
    vocabulary = pieces_of(folder)
    size = len(vocabulary) + len(vocabulary) % 2
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            if weight.ndim == 2:
                weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for now, after in itertools.pairwise(pieces):
            model.lm_head.weight[vocabulary.index(after), vocabulary.index(now)] = 1
    model.half().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_chain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Path]:
    """Makes a model that repeats a chain of pieces."""
    return lambda pieces: make_chain_model(tmp_path_factory.mktemp("chain") / "model", pieces)
