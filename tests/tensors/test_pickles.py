"""Pickles of training programs and old torch: read safely, or refused with what converts them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from remerge.errors import CheckpointError
from remerge.sources.pickles import open_pickle

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(2)}


@pytest.mark.parametrize(
    "saved",
    [
        {"state_dict": WEIGHTS, "epoch": 3, "name": "run"},
        {"model_state_dict": WEIGHTS, "optimizer": {"lr": 0.1}},
        {"model": WEIGHTS},
        WEIGHTS,
    ],
    ids=["state_dict", "model_state_dict", "model", "plain"],
)
def test_nested_table_of_tensors_is_read(tmp_path: Path, saved: dict[str, Any]) -> None:
    torch.save(saved, tmp_path / "pytorch_model.bin")
    found = open_pickle(tmp_path / "pytorch_model.bin")
    assert list(found) == list(WEIGHTS)
    assert found["a.weight"].bytes_u8().tobytes() == WEIGHTS["a.weight"].numpy().tobytes()


@pytest.mark.parametrize(
    "saved",
    [
        {"state_dict": WEIGHTS, "a.weight": torch.zeros(2)},
        {"state_dict": WEIGHTS, "model": WEIGHTS},
        {"state_dict": {"state_dict": WEIGHTS}},
        {"weights": WEIGHTS},
    ],
    ids=["tensor beside", "two tables", "nested twice", "unknown name"],
)
def test_table_that_may_be_another_is_refused(tmp_path: Path, saved: dict[str, Any]) -> None:
    torch.save(saved, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a named tensor"):
        open_pickle(tmp_path / "pytorch_model.bin")


def test_legacy_pickle_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    with pytest.raises(
        CheckpointError, match=r"before torch 1\.6.*convert it: python -c"
    ) as caught:
        open_pickle(path)
    _, _, command = str(caught.value).partition("convert it: python ")
    subprocess.run([sys.executable, *shlex.split(command)], check=True, cwd=tmp_path)
    assert list(open_pickle(path)) == list(WEIGHTS)


def test_truncated_pickle_is_told_from_a_legacy_one(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="truncated: fetch it again"):
        open_pickle(path)
