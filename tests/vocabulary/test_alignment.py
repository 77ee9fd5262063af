"""One vocabulary for several models: its rows equal a slow reference, and those of mergekit."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers.tokenization_utils_base import AddedToken

from remerge.cli import main
from remerge.errors import CheckpointError, RecipeError
from remerge.merge.token_alignment import TokenizerChoice, TokenRule, align_vocabularies
from remerge.tensors.checkpoint import Checkpoint, open_checkpoint, read_f32
from remerge.vocabulary.tokenizer import token_ids

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
WIDTH = 3


def model(folder: Path, tokens: str, rows: int, dtype: torch.dtype, seed: int) -> Checkpoint:
    """A model whose tokens are letters; rows beyond them have none."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        n: torch.randn(rows, WIDTH, generator=generator).to(dtype) for n in (EMBEDDING, HEAD)
    }
    save_file({**tensors, NORM: torch.ones(WIDTH, dtype=dtype)}, folder / "model.safetensors")
    vocabulary = {text: number for number, text in enumerate(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": rows}))
    return open_checkpoint(folder)


def matrix(checkpoint: Checkpoint, name: str = EMBEDDING) -> np.ndarray:
    info = checkpoint.tensors[name]
    return read_f32(info).reshape(info.shape)


def reference(
    models: list[Checkpoint], choice: TokenizerChoice, name: str
) -> tuple[dict[str, int], list[np.ndarray]]:
    """The rules of the contract, token by token, in float32 before the type of the result."""
    ids = [token_ids(m.folder) for m in models]
    own = [matrix(m, name) for m in models]
    labels = [m.label for m in models]
    source = 0 if choice.source in ("base", "union") else labels.index(choice.source)
    target = dict(ids[source])
    others = range(len(models)) if choice.source == "union" else []
    wanted = [t for i in others for t in sorted(ids[i], key=ids[i].__getitem__)
              if ids[i][t] < len(own[i])]  # fmt: skip
    for text in [*wanted, *choice.tokens]:
        target.setdefault(text, max(target.values()) + 1)
    rows = max(len(own[source]), max(target.values()) + 1)
    multiple = choice.pad_to_multiple_of or 1
    padded = math.ceil(rows / multiple) * multiple
    texts = {number: text for text, number in target.items()}
    results = []
    for i in range(len(models)):
        new = np.zeros((padded, WIDTH), np.float32)
        for row in range(padded):
            text = texts.get(row)
            have = [k for k in range(len(models)) if ids[k].get(text or "", 1 << 30) < len(own[k])]
            rule = choice.tokens.get(text or "")
            if text is None:
                if row < len(own[source]):
                    new[row] = own[source][row]
                else:
                    lanes = np.zeros((8, WIDTH))
                    for k in range(row):
                        lanes[k % 8] += new[k]
                    new[row:] = [math.fsum(lanes[:, j]) / row for j in range(WIDTH)]
                    break
            elif i in have and not (rule and rule.force):
                new[row] = own[i][ids[i][text]]
            elif rule and rule.kind == "zero":
                new[row] = 0
            elif rule:
                k = labels.index(str(rule.model))
                other = text if rule.kind == "model" else rule.token
                new[row] = own[k][other if isinstance(other, int) else ids[k][str(other)]]
            elif len(have) == 1 or 0 in have:
                k = have[0]
                new[row] = own[k][ids[k][text]]
            elif have:
                total = np.zeros(WIDTH, np.float32)
                for k in have:
                    total = total + own[k][ids[k][text]]
                new[row] = total / np.float32(len(have))
        results.append(new)
    return target, results


LETTERS = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=8, unique=True)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tokens=st.lists(LETTERS, min_size=2, max_size=4),
    spare=st.lists(st.integers(-1, 3), min_size=4, max_size=4),
    source=st.sampled_from(["base", "union", "m1"]),
    rules=st.dictionaries(
        st.sampled_from("abcdez"), st.tuples(st.sampled_from("zmn"), st.booleans()), max_size=3
    ),
    multiple=st.sampled_from([None, 1, 5, 16]),
    number=st.integers(0, 10**9),
)
def test_rows_equal_the_reference(
    tmp_path: Path,
    tokens: list[list[str]],
    spare: list[int],
    source: str,
    rules: dict[str, tuple[str, bool]],
    multiple: int | None,
    number: int,
) -> None:
    folder = tmp_path / f"{number}-{len(list(tmp_path.iterdir()))}"
    made = [
        model(folder / f"m{i}", "".join(t), max(1, len(t) + spare[i]), torch.float32, i)
        for i, t in enumerate(tokens)
    ]
    written = {
        text: TokenRule("zero", force=force)
        if kind == "z"
        else TokenRule("model_token", "m1", 0 if kind == "m" else tokens[1][0], force)
        for text, (kind, force) in rules.items()
    }
    choice = TokenizerChoice(source, written, multiple)
    aligned = align_vocabularies(made, choice, folder / "scratch")
    for name in (EMBEDDING, HEAD):
        target, expected = reference(made, choice, name)
        for found, wanted in zip(aligned.models, expected, strict=True):
            np.testing.assert_array_equal(matrix(found, name), wanted)
        assert aligned.rows == len(expected[0])
    if aligned.files:
        assert token_ids(aligned.files["tokenizer.json"].parent) == target


def test_type_is_the_narrowest_of_all_and_computed_rows_round_once(tmp_path: Path) -> None:
    base = model(tmp_path / "m0", "ab", 2, torch.bfloat16, 0)
    others = [model(tmp_path / f"m{i}", "abc", 3, torch.bfloat16, i) for i in (1, 2)]
    aligned = align_vocabularies(
        [base, *others], TokenizerChoice("union", {}, 4), tmp_path / "scratch"
    )
    assert {m.tensors[EMBEDDING].dtype for m in aligned.models} == {"BF16"}
    _, expected = reference([base, *others], TokenizerChoice("union", {}, 4), EMBEDDING)
    for found, wanted in zip(aligned.models, expected, strict=True):
        rounded = torch.from_numpy(wanted).to(torch.bfloat16).float().numpy()
        np.testing.assert_array_equal(matrix(found), rounded)
    mixed = [base, model(tmp_path / "m3", "abc", 3, torch.float16, 3)]
    aligned = align_vocabularies(mixed, TokenizerChoice("union"), tmp_path / "scratch")
    assert {m.tensors[EMBEDDING].dtype for m in aligned.models} == {"F32"}


@pytest.mark.parametrize(
    "choice, says",
    [
        (TokenizerChoice("m9"), "source is 'm9'; expected base, union or one of m0, m1"),
        (
            TokenizerChoice("base", {"a": TokenRule("model", "m9")}),
            "token 'a' is to come from 'm9'; expected one of m0, m1",
        ),
        (
            TokenizerChoice("union", {"q": TokenRule("model", "m1", force=True)}),
            "m1 has no row of 'q'",
        ),
        (TokenizerChoice("base", {"a": TokenRule("model_token", "m1", 99)}), "no row of '99'"),
        (TokenizerChoice("base", {}, 0), "pad_to_multiple_of is 0"),
    ],
)
def test_rule_that_cannot_be_followed_is_refused(
    tmp_path: Path, choice: TokenizerChoice, says: str
) -> None:
    made = [model(tmp_path / f"m{i}", "abc", 3, torch.float32, i) for i in range(2)]
    with pytest.raises(RecipeError, match=says):
        align_vocabularies(made, choice, tmp_path / "scratch")


def test_union_without_tokenizer_json_is_refused(tmp_path: Path) -> None:
    made = [model(tmp_path / f"m{i}", "ab" + "x☃"[i], 3, torch.float32, i) for i in range(2)]
    embedded = Path(__file__).parents[2] / "embedded" / "sources" / "base" / "tokenizer.model"
    (made[0].folder / "tokenizer.json").unlink()
    (made[0].folder / "tokenizer.model").write_bytes(embedded.read_bytes())
    with pytest.raises(CheckpointError, match=r"m0: has no tokenizer\.json.*save_pretrained"):
        align_vocabularies(made, TokenizerChoice("union"), tmp_path / "scratch")


def real(folder: Path, words: list[str], added: list[Any], seed: int) -> None:
    """A small Llama with a tokenizer that transformers reads."""
    vocabulary = {word: number for number, word in enumerate(words)}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    described = {
        "version": "1.0",
        **parts,
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(described))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )
    fast.add_tokens(added)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(fast),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,
        bos_token_id=vocabulary["<s>"],
        eos_token_id=vocabulary["</s>"],
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    special = ["<unk>", "<s>", "</s>"]
    start, end = (AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>"))
    real(tmp_path / "base", [*special, *"abcdefg"], [], 0)
    real(tmp_path / "one", [*special[::-1], *"gfedcba", "x", "y"], [start], 1)
    real(tmp_path / "two", [*special, *"abcyz"], [start, end], 2)
    return tmp_path


def test_union_of_the_command_line_loads_and_tokenizes(
    family: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("ties", "base", "one", "two:1", "--density", "1", "--dtype", "float32")
    assert main([*words, "--tokenizer", "union", "--token", "x=zero", "--out", "out"]) == 0
    config = transformers.AutoConfig.from_pretrained("out")
    tokenizer = transformers.AutoTokenizer.from_pretrained("out")
    assert config.vocab_size == len(tokenizer) == 15
    assert config.bos_token_id == 1
    loaded = transformers.AutoModelForCausalLM.from_pretrained("out")
    assert loaded.get_input_embeddings().weight.shape[0] == 15
    texts = tokenizer.convert_ids_to_tokens(tokenizer.encode("a <|im_start|> x z q <|im_end|>"))
    assert texts == ["a", "<|im_start|>", "x", "z", "<unk>", "<|im_end|>"]
    rows, two = load_file("out/model.safetensors")[EMBEDDING], load_file("two/model.safetensors")
    ids = token_ids(Path("two"))
    z, end = tokenizer.convert_tokens_to_ids(["z", "<|im_end|>"])
    assert torch.equal(rows[z], two[EMBEDDING][ids["z"]])  # the only model that has it
    assert torch.equal(rows[end], two[EMBEDDING][ids["<|im_end|>"]])
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert [d["vocabulary"] for d in manifest["parameters"]["donors"]] == ["one", "one"]
    assert not list(Path(".scratch").glob("vocabulary*"))


def test_tokenizer_of_a_donor_brings_its_numbers(family: Path) -> None:
    words = ("gradient", "base", "one", "0.5", "0.5", "--dtype", "float32")
    assert main([*words, "--tokenizer", "one", "--out", "out"]) == 0
    config = json.loads(Path("out/config.json").read_text())
    assert (config["vocab_size"], config["bos_token_id"], config["eos_token_id"]) == (13, 1, 0)
    assert Path("out/tokenizer.json").read_bytes() == Path("one/tokenizer.json").read_bytes()
    rows = {
        name: load_file(f"{name}/model.safetensors")[EMBEDDING] for name in ("out", "base", "one")
    }
    a = {name: token_ids(Path(name))["a"] for name in rows}
    mean = 0.5 * rows["base"][a["base"]] + 0.5 * rows["one"][a["one"]]
    assert torch.allclose(rows["out"][a["out"]], mean, atol=1e-7)


@pytest.mark.parametrize("rule", ["map", "rows"])
def test_gradient_maps_rows_or_takes_them_by_number(family: Path, rule: str) -> None:
    real(family / "other", ["<unk>", "<s>", "</s>", *"gabcdef"], [], 5)
    words = ("gradient", "base", "other", "1", "1", "--dtype", "float32")
    assert main([*words, "--out", "no"]) == 1 and not Path("no").exists()
    assert main([*words, "--vocabulary", rule, "--out", "out"]) == 0
    rows, theirs = (load_file(f"{n}/model.safetensors")[EMBEDDING] for n in ("out", "other"))
    order = [0, 1, 2, 4, 5, 6, 7, 8, 9, 3] if rule == "map" else range(10)
    assert torch.equal(rows, theirs[list(order)])


@pytest.mark.parametrize("choice", ["one", "chatml", "nothing", "two"])
def test_chat_template_is_a_models_or_a_known_one(
    family: Path, choice: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (family / "one" / "chat_template.jinja").write_text("{{ messages }} of one")
    real(family / "twin", ["<unk>", "<s>", "</s>", *"abcdefg"], [], 5)
    words = ["gradient", "base", "twin", "0", "1"]
    if choice == "one":
        words = ["gradient", "base", "one", "0", "1", "--tokenizer", "base"]
    status = main([*words, "--chat-template", choice, "--out", "out"])
    if choice in ("nothing", "two"):
        assert status == 1 and "expected one of base, twin, alpaca" in capfd.readouterr().err
        return
    text = Path("out/chat_template.jinja").read_text()
    assert text == "{{ messages }} of one" if choice == "one" else "<|im_start|>" in text


MERGEKIT = """\
models:
- {model: one, parameters: {weight: 0.5}}
- {model: two, parameters: {weight: 0.25}}
dtype: float32
"""
FILES = {
    "union": MERGEKIT
    + "merge_method: task_arithmetic\nbase_model: base\ntokenizer: {source: union}\n",
    "a model's": MERGEKIT
    + "merge_method: task_arithmetic\nbase_model: base\ntokenizer: {source: two}\n",
    "rules": MERGEKIT
    + """\
merge_method: linear
parameters: {normalize: false}
tokenizer:
  source: union
  pad_to_multiple_of: 12
  tokens:
    "<|im_end|>": {source: {kind: zero}}
    x: {source: {kind: model_token, model: one, token: a}, force: true}
    "<|im_start|>": {source: two, force: true}
    brandnew: {source: {kind: model_token, model: two, token_id: 4}}
""",
}


@pytest.mark.full
@pytest.mark.parametrize("kind", FILES)
def test_rows_agree_with_mergekit(family: Path, kind: str, mergekit: Path) -> None:
    """Each token has the row that mergekit gives it; only the order of new tokens is ours."""
    Path("merge.yml").write_text(FILES[kind])
    assert main(["merge", "merge.yml", "ours"]) == 0
    command = [str(mergekit.with_name("mergekit-yaml")), "merge.yml", "theirs"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [*command, "--no-write-model-card"], check=True, env=offline, capture_output=True
    )
    ours, theirs = (load_file(f"{f}/model.safetensors") for f in ("ours", "theirs"))
    mine, other = (token_ids(Path(f)) for f in ("ours", "theirs"))
    assert set(mine) == set(other)
    for name in (EMBEDDING, HEAD):
        assert ours[name].shape == theirs[name].shape
        for text in mine:
            assert torch.equal(ours[name][mine[text]], theirs[name][other[text]]), text
        beyond = slice(len(mine), None)
        assert torch.allclose(ours[name][beyond], theirs[name][beyond], atol=1e-7, rtol=0)
