"""Model files that a runtime would crash on, never finish, or fill memory with: `chat`, `score`."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.samples import Write, sample

TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "\u2581", "b"]
WIDTH, WIDER = 32, 64


def gguf_file(path: Path, template: str = "", **changed: Any) -> None:
    """Write a Llama of one layer that llama.cpp loads; `changed` metadata by the end of its key."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    numbers = {
        "context_length": 64, "embedding_length": WIDTH, "block_count": 1,
        "feed_forward_length": WIDER, "attention.head_count": 4, "attention.head_count_kv": 4,
        "rope.dimension_count": 8, "vocab_size": len(TOKENS),
    }  # fmt: skip
    for key, value in (numbers | changed).items():
        if isinstance(value, float):
            writer.add_float32(f"llama.{key}", value)
        else:
            writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types([2, 3, 3, *[6] * 256, 1, 1, 1])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if template:
        writer.add_chat_template(template)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output": (len(TOKENS), WIDTH)}
    shapes |= {f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{part}": (WIDER, WIDTH) for part in ("gate", "up")}
    shapes |= {"blk.0.ffn_down": (WIDTH, WIDER)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.1, shape).astype("<f4"))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, "<f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _template(name: str, what: str, text: str) -> Write:
    def write(path: Path) -> None:
        gguf_file(path, text)

    write.__name__, write.__doc__ = name, what
    return sample("gguf template")(write)


_template("endless", "Has a chat template that never ends; llama.cpp runs one when it loads.",
          "{% for a in range(999) %}" * 9 + "{% endfor %}" * 9)  # fmt: skip
_template("bomb", "Has a chat template whose text doubles until memory is full.",
          "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}"
          "{% endfor %}{{ n.s }}")  # fmt: skip
_template("product", "Has a chat template that asks for a text of a terabyte at once.",
          "{{ 'a' * 1000000000000 }}")  # fmt: skip
_template("recursion", "Has a chat template that calls itself without end, to overflow the stack.",
          "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")  # fmt: skip
_template("nesting", "Has a chat template of 100,000 brackets, to overflow the parser's stack.",
          "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}")  # fmt: skip
_template("raises", "Has a chat template that raises an error.",
          "{{ raise_exception('no') }}")  # fmt: skip
_template("broken", "Has a chat template that is no template.", "{% if %}{{ }} {% endfor")


def _counts(name: str, what: str, **changed: Any) -> Write:
    def write(path: Path) -> None:
        gguf_file(path, **changed)

    write.__name__, write.__doc__ = name, what
    return sample("gguf")(write)


_HUGE = 2**32 - 1
_counts("layers", "Claims four billion layers.", block_count=_HUGE)
_counts("no_layers", "Claims no layer.", block_count=0)
_counts("width", "Claims four billion numbers a token.", embedding_length=_HUGE)
_counts("no_width", "Claims no number a token.", embedding_length=0)
_counts("heads", "Claims four billion heads.", **{"attention.head_count": _HUGE})
_counts("no_heads", "Claims no head, a division by zero.", **{"attention.head_count": 0})
_counts("no_kv_heads", "Claims no head of keys.", **{"attention.head_count_kv": 0})
_counts("context", "Claims to know texts of four billion tokens.", context_length=_HUGE)
_counts("no_context", "Claims to know no text.", context_length=0)
_counts("rotation", "Rotates more numbers than a head has.", **{"rope.dimension_count": 4096})
_counts("text_for_a_number", "Gives a fraction for the number of layers.", block_count=1.5)


@sample("gguf")
def no_end(path: Path) -> None:
    """Ends within its first tensor."""
    gguf_file(path)
    path.write_bytes(path.read_bytes()[:-5000])


CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
    "intermediate_size": WIDER, "num_attention_heads": 4, "num_key_value_heads": 4,
    "num_hidden_layers": 1, "vocab_size": len(TOKENS), "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu",
}  # fmt: skip


def model_folder(
    path: Path, config: Mapping[str, Any] | str = CONFIG, settings: Mapping[str, Any] | str = "",
    tokenizer: Mapping[str, Any] | None = None, more: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write a folder of the same Llama that transformers loads."""
    path.mkdir(parents=True)
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (len(TOKENS), WIDTH)}
    layer = "model.layers.0"
    for part in "qkvo":
        shapes[f"{layer}.self_attn.{part}_proj"] = (WIDTH, WIDTH)
    shapes |= {f"{layer}.mlp.{part}_proj": (WIDER, WIDTH) for part in ("gate", "up")}
    shapes |= {f"{layer}.mlp.down_proj": (WIDTH, WIDER), "lm_head": (len(TOKENS), WIDTH)}
    for norm in (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm"):
        shapes[norm] = (WIDTH,)
    data, header, at = b"", {}, 0
    for name, shape in sorted(shapes.items()):
        raw = random.normal(0, 0.1, shape).astype("<f4").tobytes()
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(raw)]}
        header[f"{name}.weight"], data, at = entry, data + raw, at + len(raw)
    text = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (path / "tokenizer.json").write_text(json.dumps(tokenizer or TOKENIZER))
    given = settings or {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (path / "tokenizer_config.json").write_text(
        given if isinstance(given, str) else json.dumps(given)
    )
    for name, content in (more or {}).items():
        (path / name).write_text(content)


TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [
        {"id": i, "content": t, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for i, t in enumerate(TOKENS[:3])
    ],
    "model": {
        "type": "BPE", "vocab": {t: i for i, t in enumerate(TOKENS)}, "merges": [],
        "unk_token": "<unk>", "byte_fallback": True,
    },
}  # fmt: skip


def _config(name: str, what: str, text: str = "", **changed: Any) -> Write:
    def write(path: Path) -> None:
        model_folder(path, text or {k: v for k, v in (CONFIG | changed).items() if v is not ...})

    write.__name__, write.__doc__ = name, what
    return sample("model config")(write)


_config("layers", "Claims a billion layers.", num_hidden_layers=10**9)
_config("more_layers", "Claims a layer more than there is, which transformers fills with noise.",
        num_hidden_layers=2)  # fmt: skip
_config("fewer_layers", "Claims a layer fewer than there is.", num_hidden_layers=0)
_config("vocabulary", "Claims a billion tokens.", vocab_size=10**9)
_config("width", "Claims a billion numbers a token.", hidden_size=10**9)
_config("inner_width", "Claims a billion inner numbers.", intermediate_size=10**9)
_config("heads", "Claims a billion heads.", num_attention_heads=10**9)
_config("no_heads", "Claims no head, a division by zero.", num_attention_heads=0)
_config("negative_heads", "Claims fewer than no heads.", num_attention_heads=-4)
_config("head_width", "Claims heads of a billion numbers.", head_dim=10**9)
_config("context", "Claims to know texts of 10^18 tokens.", max_position_embeddings=10**18)
_config("negative_context", "Claims to know texts of -1 tokens.", max_position_embeddings=-1)
_config("huge", "Has a number of 4,000 digits.", num_key_value_heads=10**3999)
_config("fraction", "Has half a layer.", num_hidden_layers=0.5)
_config("truth", "Has true for a number of layers.", num_hidden_layers=True)
_config("text", "Has a text for a number.", hidden_size="32")
_config("a_list", "Has a list for a number.", vocab_size=[262])
_config(
    "nan", "Has a number that is none.", text=json.dumps(CONFIG | {"rms_norm_eps": float("nan")})
)
_config(
    "infinite", "Has an infinite number.", text=json.dumps(CONFIG | {"rope_theta": float("inf")})
)
_config("negative_eps", "Has a negative number under a root.", rms_norm_eps=-1.0)
_config("twice", "Gives a key twice.", text='{"model_type": "llama", ' + json.dumps(CONFIG)[1:])
_config("deep", "Nests 100,000 lists.", text="[" * 100_000)
_config("a_list_alone", "Is a list.", text="[]")
_config("no_architecture", "Names no architecture.", model_type=..., architectures=...)
_config("unknown_architecture", "Names an architecture that does not exist.", model_type="evil")
_config("architecture_of_code", "Names an architecture that only its own code knows.",
        model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
        )  # fmt: skip
_config("path_for_architecture", "Names a path for an architecture.", model_type="../../evil")
_config("kernels", "Asks for compiled attention of another repository.",
        _attn_implementation="someone/kernels")  # fmt: skip
_config("other_weights", "Names other weights than those of the folder.",
        transformers_weights="/etc/passwd")  # fmt: skip
_config("quantization", "Claims to be quantized in a way that does not exist.",
        quantization_config={"quant_method": "evil"})  # fmt: skip
_config("activation", "Names an activation that does not exist.", hidden_act="__import__('os')")
_config("rope", "Has a scaling of positions by a factor of 10^300.",
        rope_scaling={"rope_type": "linear", "factor": 1e300})  # fmt: skip
_config("dtype", "Names a number type that does not exist.", dtype="../x", torch_dtype="os.system")


def _tokenizer(
    name: str, what: str, settings: Mapping[str, Any] | str = "", **changed: Any
) -> Write:
    def write(path: Path) -> None:
        model_folder(path, settings=settings, tokenizer=TOKENIZER | changed)

    write.__name__, write.__doc__ = name, what
    return sample("model tokenizer")(write)


_GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 64}
_tokenizer("bomb", "Replaces every letter by 64 of it, thirty times over.",
           normalizer={"type": "Sequence", "normalizers": [_GROWING] * 30})  # fmt: skip
_tokenizer("endless", "Splits by an expression that tries all ways to cut a text.",
           pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a|a|aa)*(aa|a)*(a*)*$[^a]"},
                          "behavior": "Isolated", "invert": False})  # fmt: skip
_tokenizer("huge_id", "Numbers a token 2^32 - 1.",
           added_tokens=[*TOKENIZER["added_tokens"], {**TOKENIZER["added_tokens"][0],
                         "id": 2**32 - 1, "content": "<x>"}])  # fmt: skip
_tokenizer("deep", "Nests 100,000 lists in its settings.", settings='{"a":' * 100_000)
_tokenizer("code", "Asks for a tokenizer that only its own code knows.",
           settings={"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.E", None]}},
           )  # fmt: skip
_tokenizer("class_path", "Names a path for the class of its tokenizer.",
           settings={"tokenizer_class": "../../evil.Evil"})  # fmt: skip
_tokenizer("length", "Says that the longest text is no number.",
           settings={"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": "x"},
           )  # fmt: skip
_tokenizer("template_bomb", "Has a Jinja template that never ends.",
           settings={"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>",
                     "chat_template": "{% for a in range(10**9) %}{% for b in range(10**9) %}"
                                      "{% endfor %}{% endfor %}"})  # fmt: skip


@sample("model folder")
def code(path: Path) -> None:
    """Asks for a Python file that lies in it, where a class of the library's own serves as well."""
    maps = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    settings |= {"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}}
    mark = f"open({str(path / 'mark')!r}, 'w')\n"
    model_folder(path, CONFIG | {"auto_map": maps}, settings, more={"evil.py": mark})


@sample("model folder")
def redirects(path: Path) -> None:
    """Has an adapter's config, by which transformers loads another folder's weights."""
    other = path.with_name(f"{path.name}-other")
    model_folder(other)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(other), "r": 1}
    model_folder(path, more={"adapter_config.json": json.dumps(adapter)})


@sample("model folder")
def generation(path: Path) -> None:
    """Has settings of generation that keep a billion beams."""
    model_folder(path, more={"generation_config.json": json.dumps({"num_beams": 10**9})})
