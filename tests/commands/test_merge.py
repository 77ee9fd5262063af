"""`remerge merge`: what mergekit files become, and what is refused before work starts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from remerge.tensors.checkpoint import open_checkpoint, read_f32
from tests.commands.test_merges import Say, adapter, model, say
from tests.methods import reference

__all__ = ["say"]
LINEAR = "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 0.25}}\n"
CIRCLE = "name: x\nmerge_method: passthrough\nmodels: [{model: y}]\n---\n"
CIRCLE += "name: y\nmerge_method: passthrough\nmodels: [{model: x}]\n"
LINEAR += "- {model: b, parameters: {weight: 0.75}}\n"


def tensors(folder: str) -> dict[str, np.ndarray]:
    found = open_checkpoint(folder).tensors
    return {name: read_f32(info).reshape(info.shape) for name, info in found.items()}


def config(folder: str) -> dict:
    return dict(json.loads((Path(folder) / "config.json").read_text()))


def write(text: str, name: str = "merge.yml") -> str:
    Path(name).write_text(text)
    return name


def merged(say: Say, text: str, out: str, *words: str) -> str:
    """Run a file; returns the model id."""
    status, said = say("merge", write(text, f"{out}.yml"), out, *words)
    assert status == 0, said
    return said.split()[0] if "note:" not in said else said.splitlines()[0].split()[0]


def test_linear_merge_is_the_weighted_mean(say: Say) -> None:
    a, b = tensors(str(model("a", 1))), tensors(str(model("b", 2)))
    merged(say, LINEAR + "dtype: float32\n", "out")
    for name, values in tensors("out").items():
        wanted = reference.linear([a[name], b[name]], [0.25, 0.75], True)
        np.testing.assert_array_equal(values, wanted.reshape(values.shape))
    assert config("out")["dtype"] == "float32"
    assert not list(Path().glob(".scratch/*"))


def test_result_has_the_type_of_its_inputs_without_dtype(say: Say) -> None:
    model("a", 1), model("b", 2)
    merged(say, LINEAR, "out")
    assert {info.dtype for info in open_checkpoint("out").tensors.values()} == {"F16"}


def test_short_forms_and_files_give_the_same_model(say: Say) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        model(name, seed)
    text = """\
merge_method: ties
base_model: base
models:
- {model: a, parameters: {density: 0.5, weight: 1}}
- {model: b, parameters: {density: 0.5, weight: 2}}
dtype: float16
"""
    status, said = say("ties", "base", "a:0.5", "b:0.5:2", "--out", "short")
    assert status == 0
    assert merged(say, text, "out") == said.split()[0]


def test_stacked_layers_follow_in_config(say: Say) -> None:
    a, b = tensors(str(model("a", 1))), tensors(str(model("b", 2)))
    text = """\
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 2]}]
- sources: [{model: b, layer_range: [1, 2], parameters: {scale: 0.5}}]
"""
    merged(say, text, "out")
    out = tensors("out")
    assert config("out")["num_hidden_layers"] == 3
    name = "mlp.up_proj.weight"
    np.testing.assert_array_equal(out[f"model.layers.1.{name}"], a[f"model.layers.1.{name}"])
    half = (b[f"model.layers.1.{name}"] / 2).astype(np.float16)
    np.testing.assert_array_equal(out[f"model.layers.2.{name}"], half)
    half = (b["lm_head.weight"] / 2).astype(np.float16)
    np.testing.assert_array_equal(out["lm_head.weight"], half)
    np.testing.assert_array_equal(out["model.embed_tokens.weight"], a["model.embed_tokens.weight"])


def test_documents_computed_on_the_way_are_those_of_two_steps(say: Say) -> None:
    for seed, name in enumerate("abc"):
        model(name, seed)
    first = LINEAR + "dtype: bfloat16\n"
    second = """\
merge_method: slerp
base_model: {first}
models: [{{model: c}}]
parameters: {{t: [0.2, 0.6]}}
dtype: float16
"""
    third = """\
merge_method: task_arithmetic
base_model: a
models: [{{model: {second}}}, {{model: {first}}}]
parameters: {{weight: 0.5}}
"""
    whole = f"name: first\n{first}---\nname: second\n{second.format(first='first')}---\n"
    at_once = merged(say, whole + third.format(first="first", second="second"), "at_once")
    merged(say, first, "step1")
    merged(say, second.format(first="./step1"), "step2")
    assert merged(say, third.format(first="./step1", second="./step2"), "step3") == at_once


def test_adapter_is_baked_on_the_way(say: Say) -> None:
    model("a", 1), model("b", 2)
    adapter("lora")
    text = LINEAR.replace("model: a", "model: a+lora")
    at_once = merged(say, text, "at_once")
    assert say("bake", "a", "lora", "--out", "baked")[0] == 0
    assert merged(say, text.replace("a+lora", "baked"), "steps") == at_once


def test_path_and_threads_change_no_byte(say: Say, tmp_path: Path) -> None:
    model("a", 1), model("b", 2)
    here = merged(say, LINEAR, "out", "--threads", "1", "--shard-size", "20KB")
    model("deep/er/b", 2)
    text = LINEAR.replace("model: b", f"model: {tmp_path}/deep/er/b")
    assert merged(say, text, "deep/out", "--threads", "3") == here
    assert (Path("deep/out/config.json")).read_bytes() == Path("out/config.json").read_bytes()


@pytest.mark.parametrize(
    "text, message",
    [
        (LINEAR.replace("model: b", "model: c"), "merge.yml:4: there is no model 'c'"),
        (LINEAR.replace("model: b", "model: b@main"), "merge.yml:4: there is no model 'b'"),
        (LINEAR.replace("model: b", "model: b+c"), "merge.yml:4: there is no adapter 'c'"),
        (
            "merge_method: linear\nmodels: [{model: a}, {model: b}]\n",
            "weight of a has no value for model.embed_tokens.weight",
        ),
        (
            "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 9]}]\n",
            "a has no layers [0, 9); it has 2",
        ),
        ("merge_method: slerp\nmodels: [{model: a}, {model: b}]\n", "slerp needs a base model"),
        (
            CIRCLE,
            "every document uses another one",
        ),
        (LINEAR + "tokenizer: {source: union, pad_to_multiple_of: 0}\n", "pad_to_multiple_of"),
        (LINEAR + "chat_template: chatlm\n", "merge.yml:5: chat_template is 'chatlm'; did you"),
    ],
)
def test_refusal_is_one_line_before_any_work(say: Say, text: str, message: str) -> None:
    model("a", 1), model("b", 2)
    status, said = say("merge", write(text), "out")
    assert status == 1
    assert message in said
    assert len(said.splitlines()) == 1
    assert not Path("out").exists()


def test_models_of_other_tokens_are_refused_or_merged_by_row(say: Say) -> None:
    model("a", 1, "xyz"), model("b", 2, "xzy")
    status, said = say("merge", write(LINEAR), "out")
    assert status == 1
    assert "token 'y' is number 2 there and 1 in a (2 tokens differ)" in said
    merged(say, LINEAR, "out", "--by-row")


def test_tokenizer_comes_from_the_model_that_is_named(say: Say) -> None:
    model("a", 1, "xyz"), model("b", 2, "xyz")
    settings = {"tokenizer_class": "LlamaTokenizer", "chat_template": "of b"}
    Path("b/tokenizer_config.json").write_text(json.dumps(settings))
    merged(say, LINEAR + "tokenizer: {source: b}\n", "out")
    assert (
        Path("out/tokenizer_config.json").read_bytes()
        == Path("b/tokenizer_config.json").read_bytes()
    )
    merged(say, LINEAR + "tokenizer_source: b\nchat_template: chatml\n", "other")
    assert "<|im_start|>" in Path("other/chat_template.jinja").read_text()
    assert "chat_template" not in json.loads(Path("other/tokenizer_config.json").read_text())


def test_result_is_the_document_that_no_other_uses(say: Say) -> None:
    model("a", 1), model("b", 2)
    text = f"name: x\n{LINEAR}---\nname: y\nmerge_method: passthrough\nmodels: [{{model: x}}]\n"
    last = merged(say, text, "last")
    assert merged(say, text, "first", "--result", "x") == last
    status, said = say("merge", write(text), "none", "--result", "z")
    assert status == 1 and "there is no document 'z'" in said


def test_wrong_file_ends_in_one_line(say: Say) -> None:
    Path("merge.yml").write_bytes(b"\xff\xfe")
    for name in ("merge.yml", "absent.yml", "."):
        status, said = say("merge", name, "out")
        assert (status, len(said.splitlines())) == (1, 1)


def test_plan_prints_the_table_of_every_document(say: Say) -> None:
    model("a", 1), model("b", 2)
    text = f"name: first\n{LINEAR}---\nmerge_method: passthrough\nmodels: [{{model: first}}]\n"
    status, said = say("plan", write(text))
    lines = said.splitlines()
    assert status == 0
    assert lines[0] == "# first: 21 tensors"
    assert lines[1].startswith("model.embed_tokens.weight F16 40×32 linear(a, b)")
    assert "weight=0.25,0.75" in lines[1]
    assert lines[22] == "# merge: 21 tensors"
    assert not Path("out").exists()


def test_filter_that_lets_no_tensor_pass_is_noted_or_refused(say: Say) -> None:
    model("a", 1), model("b", 2)
    text = LINEAR.replace("{weight: 0.25}", "{weight: [{filter: FILTER, value: 1}, {value: 0.25}]}")
    status, said = say("merge", write(text.replace("FILTER", "mlp.up_prj")), "out")
    assert status == 1
    assert "filter 'mlp.up_prj' matches no tensor; did you mean 'up_proj'?" in said
    plain = merged(say, LINEAR, "plain")
    status, said = say("merge", write(text.replace("FILTER", "router")), "unused")
    assert status == 0
    assert "note: merge.yml: filter 'router' matches no tensor" in said
    assert plain in said
