"""What a folder of weights must be before anything reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from remerge.adapters.peft_files import read_adapter
from remerge.architectures.compatibility import require_mergeable
from remerge.errors import CheckpointError
from remerge.tensors.checkpoint import open_checkpoint, raw_bytes
from tests.merge.families import random_weights, write_model


def test_a_file_that_was_cut_after_its_header_was_read_is_named(tmp_path: Path) -> None:
    model = open_checkpoint(write_model(tmp_path / "m", random_weights(0)))
    path = model.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    info = max(model.tensors.values(), key=lambda info: info.offset)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*changed"):
        raw_bytes(info)


def test_a_model_without_weights_is_no_model_to_merge(tmp_path: Path) -> None:
    model = open_checkpoint(write_model(tmp_path / "m", {}))
    with pytest.raises(CheckpointError, match=r"m: .*holds no weights"):
        require_mergeable(model, model.tensors)
    buffer = {"layers.0.rotary_emb.inv_freq": ("F32", np.ones(2, np.float32))}
    model = open_checkpoint(write_model(tmp_path / "b", buffer))
    with pytest.raises(CheckpointError, match=r"b: .*holds no weights"):
        require_mergeable(model, {})


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin"]
)
def test_a_folder_of_pickles_is_told_what_makes_them_plain(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    read = read_adapter if name.startswith("adapter") else open_checkpoint
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    with pytest.raises(CheckpointError, match=r"pickles.*name it as a source in a recipe"):
        read(tmp_path)
