"""Tiny random models of the architectures of GGUF files, with a tokenizer each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.quantize.conftest import SENTENCES, train_tokenizer

#: Rows of the embedding, more than the tokenizers have tokens.
ROWS = 400
_SIZES: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_THETA = 54321.0
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [1.0 + 0.7 * i for i in range(8)],
    "original_max_position_embeddings": 64,
}


def rope(**settings: Any) -> dict[str, Any]:
    """Rope parameters with an uncommon base."""
    return {"rope_parameters": {"rope_theta": _THETA, "rope_type": "default", **settings}}


#: Name → model type, settings beside the common ones, and the tokenizer's kind.
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("llama", rope(), "llama3"),
    "llama linear": ("llama", rope(rope_type="linear", factor=4.0), "llama3"),
    "llama yarn": ("llama", rope(**_YARN), "llama3"),
    "llama dynamic": ("llama", rope(rope_type="dynamic", factor=4.0), "llama3"),
    "llama3": ("llama", rope(**_LLAMA3), "llama3"),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}, "llama3"),
    "llama head size": ("llama", {"head_dim": 32}, "llama3"),
    "mistral": ("mistral", {"sliding_window": None, **rope()}, "sentencepiece"),
    "mistral head size": ("mistral", {"sliding_window": None, "head_dim": 32}, "tekken"),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, "sentencepiece"),
    "qwen2": ("qwen2", {"tie_word_embeddings": True, **rope()}, "qwen2"),
    "qwen2 yarn": ("qwen2", rope(**_YARN), "qwen2"),
    "qwen3": ("qwen3", {"head_dim": 32, **rope()}, "qwen2"),
    "qwen3_moe": (
        "qwen3_moe",
        {
            "head_dim": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        },
        "qwen2",
    ),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 32,
            "sliding_window": 16,
            "query_pre_attn_scalar": 32,
            "tie_word_embeddings": True,
        },
        "gemma",
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 32,
            "num_hidden_layers": 7,
            "sliding_window": 16,
            "query_pre_attn_scalar": 32,
            "tie_word_embeddings": True,
        },
        "gemma",
    ),
    "phi3": ("phi3", {"sliding_window": None, **rope()}, "sentencepiece"),
    "phi3 longrope": (
        "phi3",
        {
            "sliding_window": None,
            "max_position_embeddings": 256,
            "original_max_position_embeddings": 64,
            **rope(**_LONGROPE),
        },
        "sentencepiece",
    ),
    "granite": (
        "granite",
        {
            "attention_multiplier": 0.25,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 2.0,
        },
        "refact",
    ),
    "olmo2": ("olmo2", {}, "dbrx"),
    "smollm3": (
        "smollm3",
        {"num_hidden_layers": 5, "tie_word_embeddings": True, **rope()},
        "llama3",
    ),
    "starcoder2": ("starcoder2", {"sliding_window": None, "use_bias": True}, "starcoder"),
    "gpt2": (
        "gpt2",
        {
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            "n_ctx": 128,
            "tie_word_embeddings": True,
        },
        "gpt-2",
    ),
}

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
)
#: Kind of byte-level tokenizer → its regular expression; None: that of ByteLevel itself.
_PATTERNS: dict[str, str | None] = {
    "llama3": _CONTRACTIONS + _WORDS + r"\p{N}{1,3}" + _REST,
    "dbrx": _CONTRACTIONS + _WORDS + r"\p{N}{1,3}" + _REST,
    "qwen2": _CONTRACTIONS + _WORDS + r"\p{N}" + _REST,
    "tekken": _CASED + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt-2": None,
    "refact": None,
    "starcoder": None,
}
#: Kinds that split off every digit.
_DIGITS = ("refact", "starcoder")
#: Kinds that take a word of the vocabulary whole.
_WHOLE = ("llama3", "tekken")
_SPECIAL = ("<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>")
_CLASSES = {
    "qwen2": "Qwen2Tokenizer",
    "gemma": "GemmaTokenizer",
    "gpt-2": "GPT2Tokenizer",
    "sentencepiece": "LlamaTokenizer",
}
TEXTS = (*SENTENCES, "Sort   the\n\n\nwords 1234567 I'm WE'LL don't", "\t  def f(x):\n    return x")


def byte_level(kind: str) -> Any:
    """A byte-level BPE tokenizer of a kind, trained on a few sentences."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=kind in _WHOLE))
    pattern = _PATTERNS[kind]
    steps: list[Any] = []
    if kind in _DIGITS:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if pattern:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=ROWS - 10 - len(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def save_tokenizer(folder: Path, kind: str, *, bos: bool = False) -> None:
    """Save a tokenizer of a kind as transformers does; with `bos` it adds BOS to a text."""
    if kind in ("sentencepiece", "gemma"):
        _save_sentencepiece(folder, kind)
        return
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = byte_level(kind)
    tokenizer.add_special_tokens(list(_SPECIAL))
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{_SPECIAL[1]} $A",
            pair=f"{_SPECIAL[1]} $A $B",
            special_tokens=[(_SPECIAL[1], tokenizer.token_to_id(_SPECIAL[1]))],
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_SPECIAL[1],
        eos_token=_SPECIAL[4],
        pad_token=_SPECIAL[0],
        unk_token=_SPECIAL[0] if kind in _CLASSES else None,
    ).save_pretrained(folder)
    _change_class(folder, _CLASSES.get(kind, "PreTrainedTokenizerFast"))


def _change_class(folder: Path, name: str) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": name}))


def _save_sentencepiece(folder: Path, kind: str) -> None:
    (folder / "tokenizer.model").write_bytes(train_tokenizer(336))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    if kind == "gemma":
        names["mask_token"] = "<unk>"
    settings = {"tokenizer_class": _CLASSES[kind], "add_bos_token": True, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def save_model(folder: Path, name: str, **changes: Any) -> Path:
    """Save the model `name` of `MODELS` with a tokenizer into `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, settings, kind = MODELS[name]
    dtype = changes.pop("dtype", torch.float16)
    kind = changes.pop("tokenizer", kind)
    torch.manual_seed(20231)
    config = AutoConfig.for_model(model_type, **{**_sizes(model_type), **settings, **changes})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.endswith("bias"):
                weight.normal_(0, 0.1)
            elif "norm" in key or "ln_" in key:
                weight.add_(torch.empty_like(weight).uniform_(-0.4, 0.4))
    model.to(dtype).save_pretrained(folder)
    save_tokenizer(folder, kind)
    return folder


def _sizes(model_type: str) -> Mapping[str, Any]:
    if model_type != "gpt2":
        return _SIZES
    kept = ("vocab_size", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id")
    return {key: _SIZES[key] for key in kept}
