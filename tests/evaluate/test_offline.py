"""Scoring and chat reach no network, and leave the process as they found it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from remerge.errors import RemergeError
from remerge.evaluate.scoring import Model, score_many
from remerge.evaluate.suite import suite_from_params
from remerge.runtimes.chat import open_model
from remerge.runtimes.offline import SWITCHES, offline


def test_the_network_is_off_within_and_as_before_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "as it was")

    @offline()
    def look() -> None:
        assert {key: os.environ[key] for key in SWITCHES} == SWITCHES
        assert huggingface_hub.constants.HF_HUB_OFFLINE is True
        raise RemergeError("and fail")

    with pytest.raises(RemergeError, match="and fail"):
        look()
    assert {key: os.environ.get(key) for key in SWITCHES} == dict.fromkeys(SWITCHES) | {
        "DO_NOT_TRACK": "as it was"
    }
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("asked", ["", "1"])
def test_what_is_first_imported_within_is_online_after_unless_offline_was_asked_for(
    asked: str,
) -> None:
    program = f"""
import os
from remerge.runtimes.offline import SWITCHES, offline
with offline():
    import huggingface_hub.constants as constants
    assert constants.HF_HUB_OFFLINE is True
assert constants.HF_HUB_OFFLINE is {bool(asked)}
assert os.environ.get("HF_HUB_OFFLINE", "") == {asked!r}
"""
    environment = os.environ | ({"HF_HUB_OFFLINE": asked} if asked else {})
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_neither_scoring_nor_chat_leaves_the_process_offline(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    task = {
        "kind": "lm_eval",
        "definition": "no/such/task.yaml",
        "data": "none",
        "splits": {"test": "none.parquet"},
        "few_shot": 0,
        "metric": "acc",
    }
    suite = suite_from_params(
        {
            "suite": "made",
            "data": "none",
            "batch_size": 1,
            "device": "cpu",
            "dtype": "float32",
            "limit": None,
            "add_bos_token": False,
            "tasks": {"t": task},
        }
    )
    with pytest.raises(RemergeError):
        score_many([Model("m", tmp_path, tmp_path / "out")], suite)
    with pytest.raises(RemergeError):
        open_model(tmp_path, context=8)
    assert not [key for key in SWITCHES if key in os.environ]
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False
