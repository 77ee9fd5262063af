"""License, base models and tags in a GGUF file, and every token that ends a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from gguf import GGUFReader

from remerge.errors import RecipeError
from remerge.quantize import quantize
from remerge.quantize.core.description import Description, read_description
from remerge.runtimes.programs import open_llama_cpp

CARD = """\
---
license: other
license_name: my-license
license_link: LICENSE.md
base_model:
- meta-llama/Llama-2-13b-hf
- local
tags: [merge, roleplay]
language: en
model-index: [{name: x, results: []}]
---
# A model
"""


def general(path: Path) -> dict[str, Any]:
    """The keys that describe the model, as the reader of llama.cpp's project finds them."""
    fields = GGUFReader(path).fields
    return {
        key.removeprefix("general."): field.contents()
        for key, field in fields.items()
        if key.startswith("general.")
    }


def test_gguf_states_what_the_card_says(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    description = read_description(tmp_path / "README.md")
    quantize(tiny_llama, tmp_path / "q", "gguf_q8_0", name="Mine", description=description)
    found = general(tmp_path / "q" / "model.gguf")
    assert found["size_label"] == "3.6M"
    assert found["license"] == "other"
    assert found["license.name"] == "my-license"
    assert found["license.link"] == "LICENSE.md"
    assert found["base_model.count"] == 2
    assert found["base_model.0.name"] == "Llama-2-13b-hf"
    assert found["base_model.0.organization"] == "meta-llama"
    assert found["base_model.0.repo_url"] == "https://huggingface.co/meta-llama/Llama-2-13b-hf"
    assert found["base_model.1.name"] == "local"
    assert "base_model.1.repo_url" not in found
    assert found["tags"] == ["merge", "roleplay"]
    assert found["languages"] == ["en"]
    manifest = json.loads((tmp_path / "q" / "manifest.json").read_text())
    assert manifest["parameters"]["description"]["tags"] == ["merge", "roleplay"]


def test_gguf_without_a_card_has_no_key_more(quantized: Callable[[str], Path]) -> None:
    names = {"architecture", "type", "name", "file_type", "quantization_version"}
    assert general(quantized("gguf_q8_0") / "model.gguf").keys() == names


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# no head\n", "has no head"),
        ("---\nlicense: mit\n", "has no head"),
        ("---\n- a\n---\n", "its head is no table"),
        ("---\nlicense: [mit]\n---\n", "license: expected one line of text"),
        ("---\nlicense: 'a\x1b[2J'\n---\n", "head|README|special characters"),
        ("---\ntags: [1, 2]\n---\n", "tags: expected a list"),
        ("---\ntags: {a: b}\n---\n", "tags: expected a list"),
        ("---\nbase_model: [" + "a, " * 300 + "]\n---\n", "base_model: expected a list of at most"),
        ("---\nlicense: " + "a" * 500 + "\n---\n", "license: expected one line"),
        ("---\na: [\n---\n", "flow"),
    ],
)
def test_card_head_of_another_form_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(RecipeError, match=reason):
        read_description(tmp_path / "README.md")


def test_recipe_tags_describe_gguf_items_alone() -> None:
    from remerge.recipes.derive import WRITTEN, derive
    from remerge.recipes.described import pins_of

    params = yaml.safe_load(Path("params.yaml").read_text())
    written = {key: params[key] for key in WRITTEN}
    written["recipe"] = {**params["recipe"], "tags": ["merge"]}
    derived = derive(written, pins_of(params))
    assert derived["description"] == {"license": "cc0-1.0", "tags": ["merge"]}
    assert params["description"] == {}
    same = {key for key, digest in params["digests"].items() if derived["digests"][key] == digest}
    assert same == {"eval", "ggml", "gptq"}


def test_llama_cpp_stops_at_every_end_of_text(
    make_llama: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_llama(num_hidden_layers=1)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 300, 301, 302]}))
    report = quantize(folder, tmp_path, "gguf_f16")
    fields = GGUFReader(tmp_path / "model.gguf").fields
    roles = {role: fields[f"tokenizer.ggml.{role}_token_id"].contents() for role in ("eot", "eom")}
    assert roles == {"eot": 300, "eom": 301}
    assert any("token 302" in note and "places for three" in note for note in report.notes)
    with closing(open_llama_cpp(tmp_path / "model.gguf", context=64, threads=1)) as server:
        for token, reason in ((2, "stop"), (300, "stop"), (301, "stop"), (299, "length")):
            request = {"prompt": [1, 290], "n_predict": 3, "logit_bias": [[token, 1e9]]}
            answer = server.complete(request)
            assert answer["choices"][0]["finish_reason"] == reason, token


def test_description_of_nothing_says_nothing() -> None:
    assert Description().says_nothing()
    assert not Description(tags=("a",)).says_nothing()
