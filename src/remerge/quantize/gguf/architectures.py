"""The architectures that GGUF files are written for: one table.

>>> ARCHITECTURES["qwen2"].modules[1]
Module(name='self_attn.q_proj', shape='q h', bias='always', …)

A row says which modules a layer has, what their shapes are, which have a bias, and which keys of a
file describe the model. What llama.cpp computes otherwise than transformers is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf import MODEL_ARCH

from remerge.errors import CheckpointError, printable
from remerge.quantize.core.llama import positive_integer, positive_number, rope_table
from remerge.quantize.gguf.rope import read_rope

#: A key of a file: the method of `GGUFWriter` that adds it, and its value.
Entry = tuple[str, Any]


@dataclass(frozen=True)
class Module:
    """A module with a weight. `name` holds {} for the number of an expert.

    `shape` names its dimensions by the letters of `Sizes.of`, rows first. `bias` is the switch in
    `config.json` of its bias, ``always``, or empty for none. `rotated` are the heads whose rows
    change places: ``q`` or ``k``. `known` is the name by which the map of `gguf` knows it, where
    that is another.
    """

    name: str
    shape: str
    bias: str = ""
    rotated: str = ""
    known: str = ""
    offset: float = 0.0
    transposed: bool = False


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model; `experts` is 0 for one without."""

    vocabulary: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    context: int
    epsilon: float
    experts: int = 0
    expert_width: int = 0
    tied: bool = False

    def of(self, shape: str) -> tuple[int, ...]:
        """The dimensions that letters stand for."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        letters = {
            "v": self.vocabulary,
            "h": self.hidden,
            "f": self.feed_forward,
            "q": queries,
            "k": keys,
            "d": self.head_size,
            "e": self.experts,
            "x": self.expert_width,
            "p": self.context,
            "qkv": queries + 2 * keys,
            "2f": 2 * self.feed_forward,
        }
        return tuple(letters[letter] for letter in shape.split())


Describe = Callable[[Mapping[str, Any], Sizes, str], Iterator[Entry]]


def _nothing(config: Mapping[str, Any], sizes: Sizes, where: str) -> Iterator[Entry]:
    """No keys beside the common ones."""
    return iter(())


@dataclass(frozen=True)
class Architecture:
    """A row. `describe` gives the keys beside the common ones and refuses what cannot be said.

    `activation` is the one that llama.cpp computes, under the key of `config.json` that names it.
    `window` says what llama.cpp does with a sliding window: ``pattern`` knows which layers have
    one, ``none`` attends to everything. `ropes` are the scaled ropes that it knows. `keys` are the
    names of sizes in `config.json` that differ from Llama's. `defaults` are what transformers takes
    for what `config.json` leaves out, where it is not what Llama has; `fixed` are settings of which
    llama.cpp knows this value only.
    """

    arch: MODEL_ARCH
    modules: tuple[Module, ...]
    activation: tuple[str, str] = ("hidden_act", "silu")
    window: str = "none"
    ropes: tuple[str, ...] = ("linear", "yarn", "dynamic")
    describe: Describe = _nothing
    first: tuple[Module, ...] = (Module("model.embed_tokens", "v h"),)
    last: tuple[Module, ...] = (Module("model.norm", "h"),)
    prefix: str = "model.layers.{}."
    keys: Mapping[str, str] = field(default_factory=dict)
    epsilon: str = "rms_norm_eps"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)


def _attention(
    bias: str = "", *, rotated: bool = False, out: str | None = None
) -> tuple[Module, ...]:
    """The four projections; `out` is the switch of the last one's bias where it is another."""
    return (
        Module("self_attn.q_proj", "q h", bias, "q" if rotated else ""),
        Module("self_attn.k_proj", "k h", bias, "k" if rotated else ""),
        Module("self_attn.v_proj", "k h", bias),
        Module("self_attn.o_proj", "h q", bias if out is None else out),
    )


def _gated(bias: str = "") -> tuple[Module, ...]:
    return (
        Module("mlp.gate_proj", "f h", bias),
        Module("mlp.up_proj", "f h", bias),
        Module("mlp.down_proj", "h f", bias),
    )


_BEFORE, _AFTER = Module("input_layernorm", "h"), Module("post_attention_layernorm", "h")
_HEAD_NORMS = (Module("self_attn.q_norm", "d"), Module("self_attn.k_norm", "d"))
_LLAMA = (_BEFORE, *_attention("attention_bias", rotated=True), _AFTER, *_gated("mlp_bias"))
_MIXTRAL = (
    _BEFORE,
    *_attention(rotated=True),
    _AFTER,
    Module("block_sparse_moe.gate", "e h"),
    Module("block_sparse_moe.experts.{}.w1", "f h", known="layers.{}.feed_forward.experts.w1"),
    Module("block_sparse_moe.experts.{}.w3", "f h", known="layers.{}.feed_forward.experts.w3"),
    Module("block_sparse_moe.experts.{}.w2", "h f", known="layers.{}.feed_forward.experts.w2"),
)
_QWEN3_MOE = (
    _BEFORE,
    *_attention(),
    *_HEAD_NORMS,
    _AFTER,
    Module("mlp.gate", "e h"),
    Module("mlp.experts.{}.gate_proj", "x h", known="model.layers.{}.mlp.experts.gate_proj"),
    Module("mlp.experts.{}.up_proj", "x h", known="model.layers.{}.mlp.experts.up_proj"),
    Module("mlp.experts.{}.down_proj", "h x", known="model.layers.{}.mlp.experts.down_proj"),
)


def _one_more(*names: str, shape: str = "h") -> tuple[Module, ...]:
    """Norms whose gain is one more than what the checkpoint holds."""
    return tuple(Module(name, shape, offset=1.0) for name in names)


_GEMMA2 = (
    *_one_more("input_layernorm"),
    *_attention(),
    *_one_more("post_attention_layernorm", "pre_feedforward_layernorm"),
    *_gated(),
    *_one_more("post_feedforward_layernorm"),
)
_GEMMA3 = (
    *_one_more("input_layernorm"),
    *_attention(),
    *_one_more("self_attn.q_norm", "self_attn.k_norm", shape="d"),
    *_GEMMA2[5:],
)
_PHI3 = (
    _BEFORE,
    Module("self_attn.qkv_proj", "qkv h"),
    Module("self_attn.o_proj", "h q"),
    _AFTER,
    Module("mlp.gate_up_proj", "2f h"),
    Module("mlp.down_proj", "h f"),
)
_OLMO2 = (
    *_attention(),
    Module("self_attn.q_norm", "q"),
    Module("self_attn.k_norm", "k"),
    _AFTER,
    *_gated(),
    Module("post_feedforward_layernorm", "h"),
)
_STARCODER2 = (
    Module("input_layernorm", "h", "always"),
    *_attention("always"),
    Module("post_attention_layernorm", "h", "always"),
    Module("mlp.c_fc", "f h", "always"),
    Module("mlp.c_proj", "h f", "always"),
)
_GPT2 = (
    Module("ln_1", "h", "always"),
    Module("attn.c_attn", "qkv h", "always", transposed=True),
    Module("attn.c_proj", "h q", "always", transposed=True),
    Module("ln_2", "h", "always"),
    Module("mlp.c_fc", "f h", "always", transposed=True),
    Module("mlp.c_proj", "h f", "always", transposed=True),
)


def _experts(config: Mapping[str, Any], sizes: Sizes, where: str) -> Iterator[Entry]:
    used = positive_integer(config, "num_experts_per_tok", where)
    if used > sizes.experts:
        raise CheckpointError(
            f"{where}: config.json: num_experts_per_tok is {used} of {sizes.experts} experts"
        )
    yield "add_expert_count", sizes.experts
    yield "add_expert_used_count", used


def _qwen3_moe(config: Mapping[str, Any], sizes: Sizes, where: str) -> Iterator[Entry]:
    yield from _experts(config, sizes, where)
    yield "add_expert_feed_forward_length", sizes.expert_width
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        raise CheckpointError(
            f"{where}: config.json: mlp_only_layers or decoder_sparse_step make layers without "
            "experts; llama.cpp knows none in qwen3_moe"
        )


def _softcap(config: Mapping[str, Any], key: str, where: str) -> float:
    """A cap of scores; transformers leaves it out for null, llama.cpp always divides by it."""
    if config.get(key) is None:
        raise CheckpointError(f"{where}: config.json: {key} is null; llama.cpp always has it")
    return positive_number(config[key], key, where)


def _gemma2(config: Mapping[str, Any], sizes: Sizes, where: str) -> Iterator[Entry]:
    yield "add_attn_logit_softcapping", _softcap(config, "attn_logit_softcapping", where)
    yield "add_final_logit_softcapping", _softcap(config, "final_logit_softcapping", where)
    yield "add_sliding_window", positive_integer(config, "sliding_window", where)
    _check_pattern(config, sizes, 2, where)
    # llama.cpp goes by the number of layers: the 27B model divides by hidden size over heads.
    _check_scale(config, sizes, sizes.hidden // sizes.heads if sizes.layers == 46 else None, where)


def _gemma3(config: Mapping[str, Any], sizes: Sizes, where: str) -> Iterator[Entry]:
    yield "add_sliding_window", positive_integer(config, "sliding_window", where)
    local = rope_table(config, where).get("sliding_attention")
    local = local if isinstance(local, dict) else {"rope_theta": config.get("rope_local_base_freq")}
    rope = read_rope(
        {},
        where,
        size=sizes.head_size,
        limit=sizes.context,
        table={k: v for k, v in local.items() if v},
    )
    if rope.scaling or rope.factors:
        raise CheckpointError(
            f"{where}: config.json: the rope of the layers with a sliding window is scaled; "
            "llama.cpp scales only the others"
        )
    yield "add_rope_freq_base_swa", rope.base
    _check_pattern(config, sizes, 6, where)
    _check_scale(config, sizes, sizes.hidden // sizes.heads if sizes.layers == 62 else None, where)


def _check_pattern(config: Mapping[str, Any], sizes: Sizes, period: int, where: str) -> None:
    """Only every `period`-th layer attends to everything."""
    given = config.get("layer_types")
    if given is None:
        period_given = config.get("sliding_window_pattern", config.get("_sliding_window_pattern"))
        given = None if period_given in (None, period) else period_given
    kinds = ["sliding_attention", "full_attention"]
    expected = [kinds[(layer + 1) % period == 0] for layer in range(sizes.layers)]
    if given is not None and given != expected:
        raise CheckpointError(
            f"{where}: config.json: layer_types is another pattern than the one of llama.cpp, "
            f"where each {period}th layer attends to everything"
        )


def _check_scale(config: Mapping[str, Any], sizes: Sizes, divisor: int | None, where: str) -> None:
    """Attention divides by the root of the head's size in llama.cpp, or of `divisor`."""
    divisor = divisor or sizes.head_size
    given = config.get("query_pre_attn_scalar")
    if given != divisor:
        raise CheckpointError(
            f"{where}: config.json: query_pre_attn_scalar is {printable(given, 40)}; llama.cpp "
            f"takes {divisor} for this model"
        )


def _granite(config: Mapping[str, Any], sizes: Sizes, where: str) -> Iterator[Entry]:
    keys = {
        "attention_multiplier": "add_attention_scale",
        "embedding_multiplier": "add_embedding_scale",
        "residual_multiplier": "add_residual_scale",
        "logits_scaling": "add_logit_scale",
    }
    for key, method in keys.items():
        yield method, positive_number(config.get(key, 1.0), key, where)


def _smollm3(config: Mapping[str, Any], sizes: Sizes, where: str) -> Iterator[Entry]:
    given = config.get("no_rope_layers")
    expected = [int((layer + 1) % 4 != 0) for layer in range(sizes.layers)]
    step = config.get("no_rope_layer_interval", 4)
    if (given is None and step != 4) or (given is not None and given != expected):
        raise CheckpointError(
            f"{where}: config.json: no_rope_layers is another pattern than the one of llama.cpp, "
            "where each 4th layer has no rope"
        )
    return iter(())


_TANH = ("hidden_activation", "gelu_pytorch_tanh")
_NO_BIASES = {"attention_bias": False}
_LLAMA_ROPES = ("linear", "yarn", "dynamic", "llama3")
_GEMMA = {
    "head_dim": 256,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "attention_bias": False,
}
#: Model type of `config.json` → its row.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(MODEL_ARCH.LLAMA, _LLAMA, ropes=_LLAMA_ROPES),
    "mistral": Architecture(
        MODEL_ARCH.LLAMA,
        (_BEFORE, *_attention(rotated=True), _AFTER, *_gated()),
        ropes=_LLAMA_ROPES,
        defaults={
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
            "num_key_value_heads": 8,
        },
    ),
    "mixtral": Architecture(
        MODEL_ARCH.LLAMA,
        _MIXTRAL,
        describe=_experts,
        defaults={
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
    ),
    "qwen2": Architecture(
        MODEL_ARCH.QWEN2,
        (_BEFORE, *_attention("always", out=""), _AFTER, *_gated()),
        defaults={
            "max_position_embeddings": 32768,
            "num_key_value_heads": 32,
            "use_sliding_window": False,
        },
    ),
    "qwen3": Architecture(
        MODEL_ARCH.QWEN3,
        (_BEFORE, *_attention(), *_HEAD_NORMS, _AFTER, *_gated()),
        defaults={
            "max_position_embeddings": 32768,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "use_sliding_window": False,
            **_NO_BIASES,
        },
        fixed=_NO_BIASES,
    ),
    "qwen3_moe": Architecture(
        MODEL_ARCH.QWEN3MOE,
        _QWEN3_MOE,
        describe=_qwen3_moe,
        defaults={
            "max_position_embeddings": 32768,
            "num_key_value_heads": 4,
            "use_sliding_window": False,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
            "moe_intermediate_size": 768,
            **_NO_BIASES,
        },
        fixed={"norm_topk_prob": True, **_NO_BIASES},
    ),
    "gemma2": Architecture(
        MODEL_ARCH.GEMMA2,
        _GEMMA2,
        _TANH,
        "pattern",
        ("linear",),
        _gemma2,
        last=_one_more("model.norm"),
        defaults={**_GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        fixed={"tie_word_embeddings": True, **_NO_BIASES},
    ),
    "gemma3_text": Architecture(
        MODEL_ARCH.GEMMA3,
        _GEMMA3,
        _TANH,
        "pattern",
        ("linear",),
        _gemma3,
        last=_one_more("model.norm"),
        defaults={
            **_GEMMA,
            "rope_theta": 1e6,
            "max_position_embeddings": 131072,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "use_bidirectional_attention": False,
        },
        fixed={
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "use_bidirectional_attention": False,
            **_NO_BIASES,
        },
    ),
    "phi3": Architecture(
        MODEL_ARCH.PHI3,
        _PHI3,
        ropes=("longrope",),
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
        },
    ),
    "granite": Architecture(MODEL_ARCH.GRANITE, _LLAMA, ropes=_LLAMA_ROPES, describe=_granite),
    "olmo2": Architecture(
        MODEL_ARCH.OLMO2,
        _OLMO2,
        defaults={"rms_norm_eps": 1e-5, "tie_word_embeddings": False, **_NO_BIASES},
        fixed={"tie_word_embeddings": False, **_NO_BIASES},
    ),
    "smollm3": Architecture(
        MODEL_ARCH.SMOLLM3,
        (_BEFORE, *_attention(rotated=True), _AFTER, *_gated()),
        describe=_smollm3,
        defaults={
            "rope_theta": 2e6,
            "tie_word_embeddings": True,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 4,
            "use_sliding_window": False,
            "mlp_bias": False,
            **_NO_BIASES,
        },
        fixed={"mlp_bias": False, **_NO_BIASES},
    ),
    "starcoder2": Architecture(
        MODEL_ARCH.STARCODER2,
        _STARCODER2,
        ("hidden_act", "gelu_pytorch_tanh"),
        last=(Module("model.norm", "h", "always"),),
        epsilon="norm_epsilon",
        defaults={
            "norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
            "max_position_embeddings": 4096,
            "num_key_value_heads": 2,
            "use_bias": True,
        },
        fixed={"use_bias": True},
    ),
    "gpt2": Architecture(
        MODEL_ARCH.GPT2,
        _GPT2,
        ("activation_function", "gelu_new"),
        ropes=(),
        first=(Module("transformer.wte", "v h"), Module("transformer.wpe", "p h")),
        last=(Module("transformer.ln_f", "h", "always"),),
        prefix="transformer.h.{}.",
        keys={
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions",
            "intermediate_size": "n_inner",
        },
        epsilon="layer_norm_epsilon",
        defaults={
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
            "n_positions": 1024,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
        },
        fixed={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    ),
}
