"""Questions in the model's own chat template, in transformers and in llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remerge.errors import RecipeError
from remerge.evaluate import score, suite_from_params
from remerge.evaluate.suite import with_settings
from tests.evaluate.leaderboard import leaderboard_on
from tests.evaluate.test_llama_cpp import quantized, skills

#: Ends in a word that says how many messages there were: the chain goes on from there.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    "{{ ' ten' if messages | length > 1 else ' of' }}"
)


@pytest.fixture(scope="module")
def chatty(
    make_chain: Callable[[list[str]], Path], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A model that says ` is` after ` of`, and ` the` after ` ten` or `?`; with its template."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    from tests.evaluate.conftest import pieces_of

    folder = tmp_path_factory.mktemp("chatty") / "model"
    shutil.copytree(make_chain(["▁of", "▁is", "<0x0A>"]), folder)
    tensors = load_file(folder / "model.safetensors")
    pieces = pieces_of(folder)
    for now, after in (("▁ten", "▁the"), ("?", "▁the"), ("▁the", "<0x0A>")):
        tensors["lm_head.weight"][pieces.index(after), pieces.index(now)] = torch.tensor(1.0)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def test_chat_template_puts_the_question(chatty: Path, tmp_path: Path) -> None:
    plain = skills(tmp_path, ["is", "is"])
    assert score(chatty, plain, tmp_path / "plain")["average"] == 0.0
    result = score(chatty, with_settings(plain, chat_template=True), tmp_path / "chat")
    assert result["average"] == 1.0
    assert result["settings"]["chat_template"] is True
    assert (
        "chat_template"
        not in json.loads((tmp_path / "plain" / "scores.json").read_text())["settings"]
    )


def test_llama_cpp_uses_the_template_of_the_file(chatty: Path, tmp_path: Path) -> None:
    quant = quantized(chatty, tmp_path / "q")
    plain = skills(tmp_path, ["is", "is"])
    assert score(quant, plain, tmp_path / "plain")["average"] == 0.0
    assert score(quant, replace(plain, chat_template=True), tmp_path / "chat")["average"] == 1.0


def test_one_beginning_of_text_is_enough(chatty: Path, tmp_path: Path) -> None:
    from remerge.evaluate.llama_cpp import load_gguf

    quant = quantized(chatty, tmp_path / "q")
    model = load_gguf(quant / "model.gguf", skills(tmp_path, ["is"], chat_template=True))
    text = model.apply_chat_template([{"role": "user", "content": "what is"}])
    assert model.tok_encode("<s>what")[:2] != [1, 1]
    assert model.tok_encode(text)[0] == 1
    assert model.tok_encode(text)[1] != 1


@pytest.mark.parametrize(("turns", "says"), [(True, " the"), (False, " is")])
def test_examples_become_earlier_turns(
    chatty: Path, tmp_path: Path, turns: bool, says: str
) -> None:
    suite = leaderboard_on(tmp_path / "datasets", "gsm8k")
    suite = with_settings(suite, limit=1, chat_template=True, fewshot_as_multiturn=turns)
    score(chatty, suite, tmp_path / "scores" / "m")
    line = (tmp_path / "scores" / "whole" / "m" / "gsm8k.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["resps"][0][0].startswith(says.strip()), line[:300]


def test_model_without_a_template_is_refused(
    model_folder: Path, chatty: Path, tmp_path: Path
) -> None:
    suite = skills(tmp_path, ["is"], chat_template=True)
    with pytest.raises(RecipeError, match="has no chat template"):
        score(model_folder, suite, tmp_path / "scores")
    quant = quantized(model_folder, tmp_path / "q")
    with pytest.raises(RecipeError, match=r"model\.gguf: has no chat template"):
        score(quant, suite, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_turns_without_a_template_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"needs eval\.chat_template=true"):
        skills(tmp_path, ["is"], fewshot_as_multiturn=True)
    with pytest.raises(RecipeError, match="expected true or false"):
        suite_from_params({"suite": "s", "tasks": {}, "chat_template": 1} | {"tasks": {"a": {
            "kind": "skill", "data": "x", "metric": "exact_match"}}})  # fmt: skip
