"""The model id is of weights alone, so what else of a folder may run is named beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remerge import cli
from remerge.proof.code_in_model import code_note
from remerge.proof.digests import identify
from tests.proof.models import CONFIG, llama, save


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "model", llama(1))


@pytest.mark.parametrize(
    ("entries", "key"),
    [
        ({"auto_map": {"AutoModel": "evil.Evil"}}, "auto_map"),
        ({"text_config": {"auto_map": {"AutoConfig": "a--b.C"}}}, "auto_map"),
        ({"towers": [{"custom_generate": "someone/else"}]}, "custom_generate"),
        ({"_attn_implementation": "someone/kernels"}, "_attn_implementation"),
        ({"attn_implementation": {"text": "a/b:fn"}}, "attn_implementation"),
    ],
)
def test_entries_that_ask_for_code_are_named(model: Path, entries: dict, key: str) -> None:
    assert code_note(model) == ""
    (model / "config.json").write_text(json.dumps(CONFIG | entries))
    assert f"config.json ({key})" in code_note(model)


@pytest.mark.parametrize("entries", [{"auto_map": None}, {"_attn_implementation": "sdpa"}])
def test_harmless_entries_are_not_named(model: Path, entries: dict) -> None:
    (model / "config.json").write_text(json.dumps(CONFIG | entries))
    assert code_note(model) == ""


def test_id_and_check_name_code_beside_the_right_weights(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "modeling_own.py").write_text("")
    (model / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "own.T"}}')
    said = "code of its own: modeling_own.py, tokenizer_config.json (auto_map)"
    assert cli.main(["id", str(model), "--expect", identify(model).model_id]) == 0
    assert said in capsys.readouterr().err
    manifest = {"files": {}, "model_id": identify(model).model_id}
    (model / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["check", str(model)]) == 1
    assert said in capsys.readouterr().out


def test_a_config_that_cannot_be_read_is_named(model: Path) -> None:
    (model / "config.json").write_text("[" * 100_000)
    assert "config.json (cannot be read)" in code_note(model)
