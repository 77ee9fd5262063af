"""Input embedding and output head: what they are called and whether they are one matrix.

>>> head_of(names, config)
Head(embedding='model.embed_tokens.weight', name='lm_head.weight')

A tied model stores one matrix for both. It loads as tied when `config.json` says so or, where
`config.json` does not say it, when that is the default of its architecture.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

FLAG = "tie_word_embeddings"
#: Entries of config.json in which multimodal models describe their language part.
TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
_HEADS = ("lm_head", "embed_out")
#: Architectures whose embedding and head have other names: (embedding, head).
_OTHER_NAMES: dict[str, tuple[str, str]] = {
    "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "bert-generation": ("bert.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "big_bird": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "biogpt": ("biogpt.embed_tokens.weight", "output_projection.weight"),
    "camembert": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "ctrl": ("transformer.w.weight", "lm_head.weight"),
    "data2vec-text": ("data2vec_text.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "electra": ("electra.embeddings.word_embeddings.weight", "generator_lm_head.weight"),
    "ernie": ("ernie.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "falcon_mamba": ("backbone.embeddings.weight", "lm_head.weight"),
    "git": ("git.embeddings.word_embeddings.weight", "output.weight"),
    "gpt_neox_japanese": ("gpt_neox_japanese.embed_in.weight", "embed_out.weight"),
    "mamba": ("backbone.embeddings.weight", "lm_head.weight"),
    "mamba2": ("backbone.embeddings.weight", "lm_head.weight"),
    "megatron-bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "modernbert-decoder": ("model.embeddings.tok_embeddings.weight", "decoder.weight"),
    "openai-gpt": ("transformer.tokens_embed.weight", "lm_head.weight"),
    "roberta": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "roberta-prelayernorm": (
        "roberta_prelayernorm.embeddings.word_embeddings.weight",
        "lm_head.decoder.weight",
    ),
    "roc_bert": ("roc_bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "roformer": ("roformer.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "rwkv": ("rwkv.embeddings.weight", "head.weight"),
    "trocr": ("model.decoder.embed_tokens.weight", "output_projection.weight"),
    "whisper": ("model.decoder.embed_tokens.weight", "proj_out.weight"),
    "xlm": ("transformer.embeddings.weight", "pred_layer.proj.weight"),
    "xlm-roberta": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "xlm-roberta-xl": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "xlnet": ("transformer.word_embedding.weight", "lm_loss.weight"),
    "xmod": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
}
#: Architectures that are tied when config.json has no entry `tie_word_embeddings`.
_TIED_BY_DEFAULT = frozenset(
    """
    aya_vision bart bert bert-generation big_bird bigbird_pegasus biogpt blenderbot
    blenderbot-small blip bloom camembert cohere cohere2 cohere2_moe cohere2_vision
    cohere_compass_text cpmant ctrl data2vec-text deepseek_vl deepseek_vl_hybrid
    diffusion_gemma electra ernie ernie4_5 ernie4_5_moe ernie4_5_vl_moe falcon falcon_mamba
    florence2 gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text gemma4 gemma4_assistant
    gemma4_text gemma4_unified gemma4_unified_assistant gemma4_unified_text got_ocr2 gpt-sw3
    gpt2 gpt_bigcode gpt_neo gpt_neox_japanese granite_swa hunyuan_vl internvl janus jetmoe
    kimi_k25 lfm2 lfm2_moe lfm2_vl lighton_ocr mamba marian mbart megatron-bert minicpm3
    mistral3 modernbert-decoder mpt mvp openai-gpt opt ovis2 paddleocr_vl paligemma pegasus
    plbart pp_chart2table prophetnet recurrent_gemma roberta roberta-prelayernorm roc_bert
    roformer shieldgemma2 smollm3 starcoder2 t5gemma2 trocr udop vaultgemma whisper xglm xlm
    xlm-roberta xlm-roberta-xl xlnet xmod youtu zamba zamba2 zaya
    """.split()
)
#: Architectures of text generation that are not tied then; of others the default is not known.
_UNTIED_BY_DEFAULT = frozenset(
    """
    afmoe apertus arcee aria aria_text axk1 axk2 bamba bitnet blt chameleon codegen
    cohere_compass cosmos3_edge cosmos3_omni cwm dbrx deepseek_ocr2 deepseek_v2 deepseek_v3
    deepseek_v32 deepseek_v4 diffllama doge dots1 emu3 evolla exaone4 exaone4_5 exaone_moe
    falcon_h1 fast_vlm flex_olmo fuyu git glm glm4 glm46v glm4_moe glm4_moe_lite glm4v
    glm4v_moe glm5_next glm_moe_dsa glm_ocr glmga gpt_neox gpt_oss gptj granite
    granite4_vision granitemoe granitemoe_swa granitemoehybrid granitemoeshared helium
    hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax idefics idefics2
    idefics3 jais2 jamba kimi_linear laguna llama llama4 llama4_text llava llava_next
    llava_next_video llava_onevision longcat_flash mamba2 mellum mimo_v2_flash minicpmv4_6
    minimax minimax_m2 minimax_m3_vl minimax_m3_vl_text ministral ministral3 mistral
    mistral4 mixtral moshi nanochat nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe
    perception_lm persimmon phi phi3 phi4_multimodal phimoe pix2struct qianfan_ocr qwen2
    qwen2_5_omni_thinker qwen2_5_vl qwen2_moe qwen2_vl qwen3 qwen3_5 qwen3_5_moe
    qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_omni_moe_thinker qwen3_vl
    qwen3_vl_moe qwen4_exp qwen4_exp_text reformer rembert rwkv seed_oss smolvlm solar_open
    stablelm video_llama_3 video_llava vipllava xlstm
    """.split()
)


@dataclass(frozen=True)
class Head:
    """Names of the weights [tokens, width] of the input embedding and of the output head."""

    embedding: str
    name: str


def head_of(names: Collection[str], config: Mapping[str, Any]) -> Head | None:
    """Find the embedding and the head of a model that stores tensors of these names.

    Args:
        names: Names of the tensors, as stored.
        config: The model's `config.json`; may be empty.

    Returns:
        Both names, the head's even if it is not stored; None where they cannot be known.
    """
    other = _OTHER_NAMES.get(str(config.get("model_type")))
    if other is not None:
        return Head(*other) if other[0] in names else None
    embeddings = [name for name in names if _module(name) in _EMBEDDINGS]
    if len(embeddings) > 1:  # encoders of images or sound may have tables of their own
        embeddings = [n for n in embeddings if "language_model" in n or n.startswith("model.embed")]
    if len(embeddings) != 1:
        return None
    (embedding,) = embeddings
    heads = [name for name in names if _module(name) in _HEADS]
    if len(heads) > 1:
        return None
    return Head(embedding, heads[0] if heads else _head_name(embedding))


def _module(name: str) -> str:
    """The last part of the module of a weight; empty for tensors that are no weights."""
    return name.removesuffix(".weight").rpartition(".")[2] if name.endswith(".weight") else ""


def _head_name(embedding: str) -> str:
    """The name under which transformers saves a head beside the embedding of this name."""
    if embedding.startswith("language_model.model."):
        return "language_model.lm_head.weight"
    return "embed_out.weight" if _module(embedding) == "embed_in" else "lm_head.weight"


def is_tied(config: Mapping[str, Any]) -> bool | None:
    """Tell whether `config.json` makes embedding and head one matrix; None if it cannot be known.

    The entry at the top decides, then that of the language part, then the architecture's default.
    """
    for described in (config, *(config.get(key) for key in TEXT_CONFIGS)):
        flag = described.get(FLAG) if isinstance(described, Mapping) else None
        if isinstance(flag, bool):
            return flag
    model_type = config.get("model_type")
    if model_type in _TIED_BY_DEFAULT:
        return True
    return False if model_type in _UNTIED_BY_DEFAULT else None


def untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config.json` of a model whose head is a matrix of its own, in nested parts too."""
    nested = {
        key: {**config[key], FLAG: False}
        for key in TEXT_CONFIGS
        if isinstance(config.get(key), Mapping)
    }
    return {**config, **nested, FLAG: False}
