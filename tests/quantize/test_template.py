"""Name and chat template are those asked for; a model keeps its own template unless told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import jinja2
import pytest
from gguf import GGUFReader

from remerge.errors import CheckpointError, RecipeError
from remerge.quantize import quantize
from remerge.vocabulary.chat_template import chat_template
from remerge.vocabulary.prompts import ALPACA_TEMPLATE, alpaca

OWN = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{% endfor %}"
MESSAGES = [{"role": "user", "content": "Add 2 and 3."}]
NOTE = "the model's own chat template: {}, as the prompt asks"


@pytest.fixture
def with_own(tiny_llama: Path, tmp_path: Path) -> Path:
    """The tiny Llama with a template of its own."""
    return give_template(Path(shutil.copytree(tiny_llama, tmp_path / "own")))


def give_template(folder: Path) -> Path:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": OWN}))
    return folder


def shown(template: str, messages: list[dict[str, str]]) -> str:
    environment = jinja2.Environment(autoescape=False)
    return environment.from_string(template).render(
        messages=messages, add_generation_prompt=True, eos_token="</s>"
    )


def test_the_alpaca_template_shows_what_the_alpaca_prompt_is() -> None:
    assert shown(ALPACA_TEMPLATE, MESSAGES) == alpaca("Add 2 and 3.")
    system = {"role": "system", "content": "Below is an instruction."}
    expected = alpaca("Add 2 and 3.", "Below is an instruction.")
    assert shown(ALPACA_TEMPLATE, [system, *MESSAGES]) == expected
    answered = [*MESSAGES, {"role": "assistant", "content": "5"}, *MESSAGES]
    said = f"{alpaca('Add 2 and 3.')}5</s>"
    assert shown(ALPACA_TEMPLATE, answered) == alpaca("Add 2 and 3.", said)


@pytest.mark.parametrize(
    ("own", "prompt", "template", "notes"),
    [
        (False, "own", None, ()),
        (False, "raw", None, ()),
        (False, "alpaca", ALPACA_TEMPLATE, ()),
        (True, "own", OWN, ()),
        (True, "raw", None, (NOTE.format("left out"),)),
        (True, "alpaca", ALPACA_TEMPLATE, (NOTE.format("replaced by alpaca"),)),
    ],
)
def test_a_gguf_file_carries_the_name_and_the_template(
    tiny_llama: Path,
    with_own: Path,
    tmp_path: Path,
    own: bool,
    prompt: str,
    template: str | None,
    notes: tuple[str, ...],
) -> None:
    model = with_own if own else tiny_llama
    report = quantize(model, tmp_path / "out", "gguf_q8_0", name="Stheno-tiny", prompt=prompt)
    fields = GGUFReader(tmp_path / "out" / "model.gguf").fields
    found = fields.get("tokenizer.chat_template")
    assert (found.contents() if found else None) == template
    assert fields["general.name"].contents() == report.name == "Stheno-tiny"
    assert report.notes == notes


@pytest.mark.parametrize("prompt", ["own", "alpaca"])
def test_llama_cpp_fills_the_template(with_own: Path, tmp_path: Path, prompt: str) -> None:
    pytest.importorskip("xllamacpp")
    from tests.quantize.runtimes import load_gguf

    quantize(with_own, tmp_path / "out", "gguf_f16", prompt=prompt)
    filled = shown({"own": OWN, "alpaca": ALPACA_TEMPLATE}[prompt], MESSAGES)
    with closing(load_gguf(tmp_path / "out" / "model.gguf")) as model:
        answer = model.chat(MESSAGES, 8)
        assert answer == model.continue_text(filled, 8)
        assert answer != model.continue_text(MESSAGES[0]["content"], 8)


@pytest.mark.parametrize(
    ("prompt", "template"), [("own", OWN), ("raw", None), ("alpaca", ALPACA_TEMPLATE)]
)
def test_transformers_finds_the_template_of_a_gptq_folder(
    make_llama: Callable[..., Path],
    text: Path,
    tmp_path: Path,
    prompt: str,
    template: str | None,
) -> None:
    from transformers import AutoTokenizer

    model = give_template(make_llama(num_hidden_layers=1))
    quantize(model, tmp_path / "q", "gptq_4bit_128g", calibration=text, prompt=prompt)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "q", local_files_only=True)
    assert tokenizer.chat_template == template
    listed = json.loads((tmp_path / "q" / "manifest.json").read_text())["files"]
    assert set(listed) == {path.name for path in (tmp_path / "q").iterdir()} - {"manifest.json"}


def test_a_template_file_goes_before_the_settings_as_in_transformers(with_own: Path) -> None:
    (with_own / "chat_template.jinja").write_text("from the file")
    assert chat_template(with_own, "own").text == "from the file"


def test_of_several_templates_the_default_is_taken(with_own: Path) -> None:
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    (with_own / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert chat_template(with_own, "own").text == "y"


def test_an_unknown_prompt_and_a_template_that_is_no_text_are_refused(with_own: Path) -> None:
    with pytest.raises(RecipeError, match="'chatml'; expected own, alpaca or raw"):
        chat_template(with_own, "chatml")
    (with_own / "tokenizer_config.json").write_text(json.dumps({"chat_template": {"a": 1}}))
    with pytest.raises(CheckpointError, match="chat_template is no text"):
        chat_template(with_own, "own")
    (with_own / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="not UTF-8"):
        chat_template(with_own, "own")
