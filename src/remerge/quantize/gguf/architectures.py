"""The architectures that GGUF files are written for: one table.

>>> model = read_model(config, open_checkpoint(folder))
>>> model.architecture, model.tensors[1].part
('qwen2', 'attn_norm')

A row says which modules a layer has, what their shapes are, which have a bias, and which keys of a
file describe the model. Names of tensors come from the map of the `gguf` package. What llama.cpp
computes otherwise than transformers is refused, or the context of the file ends where the two still
agree and the manifest says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, RopeScalingType, get_tensor_name_map

from remerge.errors import CheckpointError, printable
from remerge.quantize.core.llama import positive_integer, positive_number, rope_table
from remerge.quantize.core.mixture import Layout
from remerge.quantize.core.tensor import ModelTensor
from remerge.quantize.gguf.rope import Rope, read_rope
from remerge.tensors.checkpoint import Checkpoint
from remerge.tensors.dtypes import KERNEL_CODE
from remerge.tensors.safetensors import TensorInfo

#: A key of a file: the method of `GGUFWriter` that adds it, and its value.
Entry = tuple[str, Any]
_SCALINGS = {
    "linear": RopeScalingType.LINEAR,
    "yarn": RopeScalingType.YARN,
    "longrope": RopeScalingType.LONGROPE,
}


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
    names of sizes in `config.json` that differ from Llama's.
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
    base: float = 10000.0
    epsilon: str = "rms_norm_eps"
    tied: bool = False
    head: str = "lm_head"


@dataclass(frozen=True)
class Model:
    """What a GGUF file says of a model, tokenizer apart; `entries` in the order of the file."""

    architecture: str
    vocabulary: int
    entries: tuple[Entry, ...]
    tensors: tuple[ModelTensor, ...]
    layout: Layout
    notes: tuple[str, ...]


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
    *_attention("attention_bias"),
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
    *_attention("attention_bias"),
    *_one_more("post_attention_layernorm", "pre_feedforward_layernorm"),
    *_gated(),
    *_one_more("post_feedforward_layernorm"),
)
_GEMMA3 = (
    *_one_more("input_layernorm"),
    *_attention("attention_bias"),
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
    *_attention("attention_bias"),
    Module("self_attn.q_norm", "q"),
    Module("self_attn.k_norm", "k"),
    _AFTER,
    *_gated(),
    Module("post_feedforward_layernorm", "h"),
)
_STARCODER2 = (
    Module("input_layernorm", "h", "always"),
    *_attention("use_bias"),
    Module("post_attention_layernorm", "h", "always"),
    Module("mlp.c_fc", "f h", "use_bias"),
    Module("mlp.c_proj", "h f", "use_bias"),
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
    used = positive_integer(config, "num_experts_per_tok", where, 2)
    if used > sizes.experts:
        raise CheckpointError(
            f"{where}: config.json: num_experts_per_tok is {used} of {sizes.experts} experts"
        )
    yield "add_expert_count", sizes.experts
    yield "add_expert_used_count", used


def _qwen3_moe(config: Mapping[str, Any], sizes: Sizes, where: str) -> Iterator[Entry]:
    yield from _experts(config, sizes, where)
    yield "add_expert_feed_forward_length", sizes.expert_width
    if config.get("norm_topk_prob") is not True:
        raise CheckpointError(
            f"{where}: config.json: norm_topk_prob is {printable(config.get('norm_topk_prob'), 9)};"
            " llama.cpp divides the weights of qwen3_moe's experts by their sum"
        )
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
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, **config}
    yield "add_attn_logit_softcapping", _softcap(caps, "attn_logit_softcapping", where)
    yield "add_final_logit_softcapping", _softcap(caps, "final_logit_softcapping", where)
    yield "add_sliding_window", positive_integer(config, "sliding_window", where, 4096)
    _check_pattern(config, sizes, 2, where)
    # llama.cpp goes by the number of layers: the 27B model divides by hidden size over heads.
    _check_scale(config, sizes, sizes.hidden // sizes.heads if sizes.layers == 46 else None, where)


def _gemma3(config: Mapping[str, Any], sizes: Sizes, where: str) -> Iterator[Entry]:
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(key) is not None:
            raise CheckpointError(f"{where}: config.json: llama.cpp has no {key} for gemma3")
    yield "add_sliding_window", positive_integer(config, "sliding_window", where, 4096)
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
    if config.get("use_bidirectional_attention"):
        raise CheckpointError(f"{where}: config.json: bidirectional attention cannot be written")


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
    given = config.get("query_pre_attn_scalar", 256)
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


def _check_gpt2(config: Mapping[str, Any], sizes: Sizes, where: str) -> Iterator[Entry]:
    wrong = [key for key in ("scale_attn_by_inverse_layer_idx",) if config.get(key)]
    wrong += [key for key in ("scale_attn_weights",) if config.get(key, True) is not True]
    if wrong:
        raise CheckpointError(
            f"{where}: config.json: {wrong[0]} is {config[wrong[0]]}; llama.cpp knows only the "
            "default"
        )
    return iter(())


_TANH = ("hidden_activation", "gelu_pytorch_tanh")
#: Model type of `config.json` → its row.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(MODEL_ARCH.LLAMA, _LLAMA, ropes=("linear", "yarn", "dynamic", "llama3")),
    "mistral": Architecture(
        MODEL_ARCH.LLAMA,
        (_BEFORE, *_attention(rotated=True), _AFTER, *_gated()),
        ropes=("linear", "yarn", "dynamic", "llama3"),
    ),
    "mixtral": Architecture(
        MODEL_ARCH.LLAMA, _MIXTRAL, describe=_experts, base=1e6, epsilon="rms_norm_eps"
    ),
    "qwen2": Architecture(
        MODEL_ARCH.QWEN2, (_BEFORE, *_attention("always", out=""), _AFTER, *_gated())
    ),
    "qwen3": Architecture(
        MODEL_ARCH.QWEN3,
        (_BEFORE, *_attention("attention_bias"), *_HEAD_NORMS, _AFTER, *_gated()),
    ),
    "qwen3_moe": Architecture(MODEL_ARCH.QWEN3MOE, _QWEN3_MOE, describe=_qwen3_moe),
    "gemma2": Architecture(
        MODEL_ARCH.GEMMA2,
        _GEMMA2,
        _TANH,
        "pattern",
        ("linear",),
        _gemma2,
        last=_one_more("model.norm"),
        tied=True,
    ),
    "gemma3_text": Architecture(
        MODEL_ARCH.GEMMA3,
        _GEMMA3,
        _TANH,
        "pattern",
        ("linear",),
        _gemma3,
        last=_one_more("model.norm"),
        base=1e6,
        tied=True,
    ),
    "phi3": Architecture(MODEL_ARCH.PHI3, _PHI3, ropes=("longrope",)),
    "granite": Architecture(
        MODEL_ARCH.GRANITE, _LLAMA, ropes=("linear", "yarn", "dynamic", "llama3"), describe=_granite
    ),
    "olmo2": Architecture(MODEL_ARCH.OLMO2, _OLMO2),
    "smollm3": Architecture(MODEL_ARCH.SMOLLM3, _LLAMA, describe=_smollm3, tied=True, base=2e6),
    "starcoder2": Architecture(
        MODEL_ARCH.STARCODER2,
        _STARCODER2,
        ("hidden_act", "gelu_pytorch_tanh"),
        last=(Module("model.norm", "h", "always"),),
        epsilon="norm_epsilon",
        tied=True,
    ),
    "gpt2": Architecture(
        MODEL_ARCH.GPT2,
        _GPT2,
        ("activation_function", "gelu_new"),
        ropes=(),
        describe=_check_gpt2,
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
        tied=True,
    ),
}
#: Those whose `epsilon` is that of a layer norm, without rope or with biases.
_LAYER_NORM = ("norm_epsilon", "layer_norm_epsilon")


def architecture_of(config: Mapping[str, Any], where: str) -> Architecture:
    """Find the row of a model; CheckpointError, which names the known ones, if there is none."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"{where}: config.json: model_type is {printable(model_type, 40)!r}; GGUF can be "
            f"written for {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[model_type]


def _read_sizes(config: Mapping[str, Any], row: Architecture, where: str) -> Sizes:
    named = {key: config.get(name) for key, name in row.keys.items()}
    # null stands for the default, as in transformers
    values = {key: value for key, value in {**config, **named}.items() if value is not None}

    def number(key: str, default: int | None = None) -> int:
        return positive_integer(values, key, where, default)

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    experts = values.get("num_local_experts", values.get("num_experts", 0))
    has_experts = any("{}" in module.name for module in row.modules)
    sizes = Sizes(
        number("vocab_size"),
        hidden,
        number("intermediate_size", 4 * hidden if "intermediate_size" in row.keys else None),
        number("num_hidden_layers"),
        heads,
        number("num_key_value_heads", heads),
        number("head_dim", _head_size(row, hidden, heads)),
        number("max_position_embeddings", 2048),
        positive_number(values.get(row.epsilon, 1e-5), row.epsilon, where),
        positive_integer({"experts": experts}, "experts", where) if has_experts else 0,
        number("moe_intermediate_size", 1),
        bool(values.get("tie_word_embeddings", row.tied)),
    )
    if sizes.head_size % 2 or heads % sizes.kv_heads:
        raise CheckpointError(
            f"{where}: config.json: {heads} heads, {sizes.kv_heads} key/value heads of size "
            f"{sizes.head_size} do not go together"
        )
    if row.arch in _EVEN_HEADS and sizes.head_size * heads != hidden:
        raise CheckpointError(
            f"{where}: config.json: head_dim is {sizes.head_size}; llama.cpp takes hidden_size "
            f"over the number of heads, {hidden // heads}, for this architecture"
        )
    return sizes


#: Architectures of which llama.cpp reads no size of a head.
_EVEN_HEADS = (MODEL_ARCH.GPT2, MODEL_ARCH.PHI3)


def _head_size(row: Architecture, hidden: int, heads: int) -> int:
    """The size of a head that transformers takes when `config.json` says none."""
    defaults = {MODEL_ARCH.GEMMA2: 256, MODEL_ARCH.GEMMA3: 256}
    defaults |= {MODEL_ARCH.QWEN3: 128}
    return defaults.get(row.arch, hidden // heads)


def read_model(config: Mapping[str, Any], checkpoint: Checkpoint) -> Model:
    """Describe a model for a GGUF file.

    Args:
        config: Its `config.json`.
        checkpoint: Its tensors.

    Returns:
        Keys and tensors of the file.

    Raises:
        CheckpointError: The architecture is unknown, llama.cpp computes something else than the
            configuration asks for, or the tensors are not those that it implies.
    """
    where = str(checkpoint.folder)
    row = architecture_of(config, where)
    key, activation = row.activation
    given = config.get(key, config.get("hidden_act", activation))
    if given != activation:
        raise CheckpointError(
            f"{where}: config.json: {key} is {printable(given, 40)!r}; llama.cpp computes "
            f"{activation} for this architecture"
        )
    sizes = _read_sizes(config, row, where)
    entries, rope, notes = _entries(config, row, sizes, where)
    rest = dict(checkpoint.tensors)
    tensors = [*_factor_tensors(rope, checkpoint.folder)]
    tensors += _tensors(row, sizes, config, rest, checkpoint)
    _refuse_strays(row, sizes, rest, checkpoint)
    layout = Layout(
        sizes.layers,
        sizes.heads,
        sizes.kv_heads,
        sizes.tied,
        sizes.experts,
        MODEL_ARCH_NAMES[row.arch],
    )
    return Model(
        MODEL_ARCH_NAMES[row.arch], sizes.vocabulary, entries, tuple(tensors), layout, notes
    )


def _entries(
    config: Mapping[str, Any], row: Architecture, sizes: Sizes, where: str
) -> tuple[tuple[Entry, ...], Rope | None, tuple[str, ...]]:
    """The keys of the file, the rope, and notes."""
    rope = None
    rotated = sizes.head_size
    if row.arch != MODEL_ARCH.GPT2:
        rope, rotated = _rope(config, row, sizes, where)
    context, notes = _context(config, row, sizes)
    entries: list[Entry] = [
        ("add_vocab_size", sizes.vocabulary),
        ("add_context_length", context),
        ("add_embedding_length", sizes.hidden),
        ("add_block_count", sizes.layers),
        ("add_feed_forward_length", sizes.feed_forward),
        ("add_head_count", sizes.heads),
        ("add_head_count_kv", sizes.kv_heads),
        (
            "add_layer_norm_eps" if row.epsilon in _LAYER_NORM else "add_layer_norm_rms_eps",
            sizes.epsilon,
        ),
    ]
    if rope is not None:
        entries += [("add_rope_dimension_count", rotated), ("add_rope_freq_base", rope.base)]
        notes = (*notes, *rope.notes)
    if sizes.head_size * sizes.heads != sizes.hidden:
        entries += [("add_key_length", sizes.head_size), ("add_value_length", sizes.head_size)]
    if rope is not None:
        entries += _scaling(rope)
    if row.arch == MODEL_ARCH.PHI3:
        entries += _phi3(rope, sizes)
    return (*entries, *row.describe(config, sizes, where)), rope, notes


def _phi3(rope: Rope | None, sizes: Sizes) -> list[Entry]:
    """Keys without which llama.cpp does not load a Phi-3: 0 is no sliding window."""
    known = [] if rope and rope.original else [("add_rope_scaling_orig_ctx_len", sizes.context)]
    return [*known, ("add_sliding_window", 0)]


def _rope(
    config: Mapping[str, Any], row: Architecture, sizes: Sizes, where: str
) -> tuple[Rope, int]:
    table = rope_table(config, where)
    full = table.get("full_attention")
    if isinstance(full, dict):
        table = full
    share = table.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    share = 1.0 if share is None else positive_number(share, "partial_rotary_factor", where)
    rotated = int(sizes.head_size * share)
    if rotated != sizes.head_size and row.arch != MODEL_ARCH.PHI3:
        raise CheckpointError(
            f"{where}: config.json: partial_rotary_factor is {share}; llama.cpp rotates whole "
            "heads for this architecture"
        )
    rope = read_rope(
        config, where, size=rotated, limit=sizes.context, table=table, default_base=row.base
    )
    kind = table.get("rope_type", table.get("type", "default"))
    kind = {"su": "longrope"}.get(kind, kind)
    if kind != "default" and kind not in row.ropes:
        known = ", ".join(("default", *row.ropes))
        raise CheckpointError(
            f"{where}: config.json: rope type {printable(kind, 40)!r} cannot be written for this "
            f"architecture; {known} can"
        )
    return rope, rotated


def _scaling(rope: Rope) -> list[Entry]:
    if not rope.scaling:
        return []
    entries: list[Entry] = [("add_rope_scaling_type", _SCALINGS[rope.scaling])]
    if rope.scaling != "longrope":
        entries.append(("add_rope_scaling_factor", rope.factor))
    if rope.original:
        entries.append(("add_rope_scaling_orig_ctx_len", rope.original))
    if rope.attention:
        entries.append(("add_rope_scaling_attn_factors", rope.attention))
    if rope.scaling == "yarn":
        entries.append(("add_rope_scaling_yarn_beta_fast", rope.betas[0]))
        entries.append(("add_rope_scaling_yarn_beta_slow", rope.betas[1]))
    return entries


def _context(
    config: Mapping[str, Any], row: Architecture, sizes: Sizes
) -> tuple[int, tuple[str, ...]]:
    """The context up to which llama.cpp attends to what transformers attends to."""
    window = config.get("sliding_window")
    if type(window) is not int or row.window != "none":
        return sizes.context, ()
    slides = bool(config.get("use_sliding_window", True))
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and "sliding_attention" not in kinds:
        slides = False
    if not slides or window >= sizes.context:
        return sizes.context, ()
    note = (
        f"context {window} instead of {sizes.context}: the model attends to the last {window} "
        "tokens, llama.cpp to all"
    )
    return window, (note,)


def _factor_tensors(rope: Rope | None, folder: Path) -> Iterator[ModelTensor]:
    for part, numbers in rope.factors if rope else ():
        info = TensorInfo(
            f"{part}.weight", "F32", (len(numbers),), folder / "config.json", 0, 4 * len(numbers)
        )
        yield ModelTensor(part, -1, info, constant=numbers)


def _tensors(
    row: Architecture,
    sizes: Sizes,
    config: Mapping[str, Any],
    rest: dict[str, TensorInfo],
    checkpoint: Checkpoint,
) -> Iterator[ModelTensor]:
    """The tensors of the checkpoint in the order of the file, each taken out of `rest`."""
    names = get_tensor_name_map(row.arch, sizes.layers)

    def taken(module: Module, prefix: str, layer: int) -> Iterator[ModelTensor]:
        for suffix in ("weight", "bias"):
            if suffix == "bias" and not _has_bias(module, config):
                continue
            known = module.known.format(layer) if module.known else prefix + module.name
            part = names.get_name(known)
            if part is None:
                raise CheckpointError(
                    f"{checkpoint.folder}: the gguf package has no name for {printable(known)!r}"
                )
            part = part.removeprefix(f"blk.{layer}.")
            count = sizes.experts if "{}" in module.name else 1
            full = [f"{prefix}{module.name.format(expert)}.{suffix}" for expert in range(count)]
            shape = sizes.of(module.shape)
            shape = shape[:1] if suffix == "bias" else shape
            turned = module.transposed and suffix == "weight"
            infos = tuple(
                _take(name, shape[::-1] if turned else shape, rest, checkpoint) for name in full
            )
            heads = {"q": sizes.heads, "k": sizes.kv_heads}.get(module.rotated, 0)
            yield ModelTensor(
                part,
                layer,
                infos[0],
                heads,
                suffix,
                infos if "{}" in module.name else (),
                turned,
                module.offset,
            )

    for module in row.first:
        yield from taken(module, "", -1)
    for layer in range(sizes.layers):
        for module in row.modules:
            yield from taken(module, row.prefix.format(layer), layer)
    for module in row.last:
        yield from taken(module, "", -1)
    if not sizes.tied:
        yield from taken(Module(row.head, "v h"), "", -1)


def _has_bias(module: Module, config: Mapping[str, Any]) -> bool:
    if module.bias in ("", "always"):
        return bool(module.bias)
    return bool(config.get(module.bias, module.bias == "use_bias"))


def _take(
    name: str, shape: tuple[int, ...], rest: dict[str, TensorInfo], checkpoint: Checkpoint
) -> TensorInfo:
    info = rest.pop(name, None)
    if info is None:
        raise CheckpointError(f"{checkpoint.folder}: tensor {printable(name)!r} is missing")
    if info.shape != shape:
        raise CheckpointError(
            f"{info.path}: tensor {printable(name)!r} has shape {list(info.shape)}, config.json "
            f"implies {list(shape)}"
        )
    if info.dtype not in KERNEL_CODE:
        raise CheckpointError(
            f"{info.path}: tensor {printable(name)!r} is {info.dtype}; "
            "only F16, BF16 and F32 weights can be quantized"
        )
    return info


def _refuse_strays(
    row: Architecture, sizes: Sizes, rest: Mapping[str, TensorInfo], checkpoint: Checkpoint
) -> None:
    """What no file holds: buffers that are no weights, and the head of a tied model."""
    buffers: Sequence[str] = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias")
    strays = [
        name
        for name in rest
        if not name.endswith(tuple(buffers)) and not (sizes.tied and name == f"{row.head}.weight")
    ]
    if strays:
        raise CheckpointError(
            f"{checkpoint.folder}: tensor {printable(strays[0])!r} has no place in a "
            f"{MODEL_ARCH_NAMES[row.arch]} file"
        )
