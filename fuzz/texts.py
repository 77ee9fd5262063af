"""Targets: what people write or take over from others, in `conf/` and beside a model's weights."""

from __future__ import annotations

from fuzz.running import Target, checked, scratch
from remerge.quantize.core.vocabulary import read_vocabulary
from remerge.recipes import pins
from remerge.recipes.choice import parse_setting, read_choice, with_choice
from remerge.recipes.graph import read_graph
from remerge.recipes.mergekit.reading import read_merges
from remerge.recipes.schema import read_recipe
from remerge.runtimes.model_config import (
    check_config,
    check_generation,
    check_tokenizer,
    check_tokenizer_settings,
)
from remerge.stages import guard
from remerge.tensors.json_files import parse_json_object
from remerge.vocabulary.chat_template import own_template
from remerge.yaml_text import parse_yaml


def recipe_text(data: bytes) -> None:
    """The text of a recipe: what Hydra may read, the schema, the graph"""
    path = scratch() / "recipe.yaml"
    path.write_bytes(data)

    def read() -> None:
        guard._check_file(path, "conf/recipe/fuzzed.yaml")
        value = parse_yaml(data)
        read_graph(read_recipe(value.get("recipe") if isinstance(value, dict) else value))

    checked(read)


def pins_text(data: bytes) -> None:
    """A file of conf/pins"""
    path = scratch() / "pins.yaml"
    path.write_bytes(data)
    found = checked(lambda: pins.read_pins_file(path, "conf/pins/fuzzed.yaml"))
    for name, pin in (found or {}).items():
        checked(lambda name=name, pin=pin: pins.digest(name, pin))


def choice(data: bytes) -> None:
    """conf/config.yaml, as `remerge use` reads and changes it; for an odd first byte a setting"""
    text = data[1:].decode("utf-8", "replace")
    if data[:1] and data[0] % 2:
        found = checked(lambda: parse_setting(text))
        if found:
            checked(lambda: with_choice(_CHOICE, {}, {found[0]: found[1]}, []))
        return
    checked(lambda: read_choice(text))
    checked(lambda: with_choice(text, {"recipe": "mine"}, {"ties.density": 0.5}, []))


_CHOICE = "defaults:\n  - recipe: tiny\n  - _self_\nties:\n  density: 0.5\n"
_PIECES = (
    b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02"
    b"\x0a\x0c\x0a\x03<s>\x15\x00\x00\x00\x00\x18\x03"
    b"\x0a\x0d\x0a\x04</s>\x15\x00\x00\x00\x00\x18\x03"
    b"\x0a\x08\x0a\x01a\x15\x00\x00\x80\xbf\x12\x02\x18\x02"
)
_JSON = (
    b'{"model":{"type":"BPE","byte_fallback":true,"unk_token":"<unk>","vocab":{"<unk>":0,"<s>":1,'
    b'"</s>":2,"a":3,"aa":4},"merges":["a a"]},"added_tokens":[{"id":1,"content":"<s>","special":'
    b'true}],"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"\xe2\x96'
    b'\x81"},{"type":"Replace","pattern":{"String":" "},"content":"\xe2\x96\x81"}]},'
    b'"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},'
    b'{"Sequence":{"id":"A"}}]}}'
)
_SETTINGS = (
    b'{"tokenizer_class":"LlamaTokenizer","bos_token":"<s>","eos_token":{"content":"</s>"},'
    b'"add_bos_token":true,"added_tokens_decoder":{"5":{"content":"<x>","special":true}},'
    b'"chat_template":[{"name":"default","template":"{{ x }}"}]}'
)
#: Files of a tokenizer, and sound contents.
_FILES = (
    ("tokenizer.json", _JSON),
    ("tokenizer_config.json", _SETTINGS),
    ("special_tokens_map.json", b'{"eos_token":"</s>","unk_token":{"content":"<unk>"}}'),
    ("added_tokens.json", b'{"<x>":5}'),
    ("config.json", b'{"eos_token_id":[2],"bos_token_id":1}'),
    ("tokenizer.model", _PIECES),
)


def vocabulary(data: bytes) -> None:
    """A file of a tokenizer, which the first byte names, beside sound ones: the tokens of a GGUF"""
    folder = scratch() / "tokenizer"
    folder.mkdir(exist_ok=True)
    which = data[0] if data else 0
    name = _FILES[which % 6][0]
    pieces = (which // 6) % 2 == 1 or name == "tokenizer.model"
    for file, content in _FILES:
        (folder / file).unlink(missing_ok=True)
        if file == name:
            (folder / file).write_bytes(data[1:])
        elif file != "tokenizer.model" or pieces:
            (folder / file).write_bytes(content)
    checked(lambda: read_vocabulary(folder, 8))
    checked(lambda: own_template(folder))


def mergekit(data: bytes) -> None:
    """A mergekit YAML; for an odd first byte with keys passed over that have no effect"""
    path = scratch() / "merge.yml"
    path.write_bytes(data[1:])
    lenient = bool(data[:1]) and data[0] % 2 == 1
    checked(lambda: read_merges(path, lenient=lenient))


_CHECKS = (
    lambda value: check_config(value, "config.json", [(8, 4)] * 12),
    lambda value: check_tokenizer_settings(value, "tokenizer_config.json"),
    lambda value: check_tokenizer(value, "tokenizer.json"),
    lambda value: check_generation(value, "generation_config.json"),
)


def model_json(data: bytes) -> None:
    """A JSON file of a model that is run, which the first byte names, before a library has it"""
    check = _CHECKS[(data[0] if data else 0) % len(_CHECKS)]
    checked(lambda: check(parse_json_object(data[1:], "fuzzed")))


TARGETS: dict[str, Target] = {
    "recipe_text": recipe_text,
    "pins_text": pins_text,
    "choice": choice,
    "vocabulary": vocabulary,
    "mergekit": mergekit,
    "model_json": model_json,
}

#: Inputs to begin with.
SEEDS: dict[str, list[bytes]] = {
    "recipe_text": [
        b"recipe:\n  name: a\n  base: base\n  bakes:\n    b: {model: m, adapter: l}\n  merges:\n"
        b"    p1: {method: ties, models: {a: , b: {density: 0.5}}}\n"
        b"    final: {method: gradient, models: [p1, a]}\n  result: final\n  score: all\n",
        b"# @package _global_\ndefaults: [../x]\nrecipe: {title: '${oc.env:A}'}\n",
    ],
    "pins_text": [
        b"sources:\n  base:\n    kind: model\n    repo: a/b\n    revision: '"
        + b"0" * 40
        + b"'\n    files:\n      config.json: {sha256: '"
        + b"0" * 64
        + b"', size: 1}\n"
    ],
    "choice": [b"\x00" + _CHOICE.encode(), b"\x01ties.density=0.5", b"\x01+recipe.a=[1, {b: c}]"],
    "vocabulary": [bytes([number]) + content for number, (_, content) in enumerate(_FILES)],
    "mergekit": [
        b"\x00merge_method: ties\nbase_model: a/b\nmodels:\n  - model: c/d+l@main\n"
        b"    parameters:\n      density: [0.5, {filter: mlp, value: 1}]\ndtype: float16\n",
        b"\x01slices:\n  - sources:\n      - {model: a, layer_range: [0, 4]}\n"
        b"merge_method: passthrough\ntokenizer: {source: union, tokens: {x: {source: a}}}\n"
        b"---\nname: n\nmodules: {m: {slices: []}}\nmerge_method: slerp\nparameters: {t: 1}\n",
    ],
    "model_json": [
        b'\x00{"model_type":"llama","num_hidden_layers":1,"hidden_size":8,"rms_norm_eps":1e-5,'
        b'"rope_scaling":{"factor":2.0},"architectures":["LlamaForCausalLM"],"head_dim":[4]}',
        b'\x01{"tokenizer_class":"A","model_max_length":1e30,"added_tokens_decoder":{"1":{}},'
        b'"chat_template":[],"vocab_file":"a","eos_token":{}}',
        b'\x02{"model":{"vocab":{"a":0}},"added_tokens":[{"id":1}]}',
        b'\x03{"num_beams":2,"custom_generate":"","eos_token_id":[1]}',
    ],
}
