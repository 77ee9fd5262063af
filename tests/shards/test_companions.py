"""Files beside the weights: processors, vocabularies, and a config whose parts agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remerge.methods.ties import Donor, TiesSettings, plan_ties
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import config_of, open_checkpoint
from tests.merge.families import random_weights, write_model

FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
)


@pytest.mark.parametrize("spelling", ["dtype", "torch_dtype"])
def test_processor_files_and_nested_types_follow(tmp_path: Path, spelling: str) -> None:
    base = write_model(tmp_path / "base", random_weights(0))
    donor = write_model(tmp_path / "donor", random_weights(1))
    for name in FILES:
        (base / name).write_bytes(name.encode())
    part = {spelling: "float32", "quantization_config": {"bits": 4}, "hidden_size": 8}
    config = {"model_type": "llama", "text_config": part, "vision_config": {"hidden_size": 4}}
    (base / "config.json").write_text(json.dumps(config))
    plan = plan_ties(
        open_checkpoint(base),
        [Donor(open_checkpoint(donor), 0.5)],
        TiesSettings(),
        dtype="BF16",
        shard_bytes=10**9,
    )
    manifest = build(
        plan,
        tmp_path / "out",
        companions=companions_of(base),
        scratch=tmp_path / "scratch",
        threads=1,
    )
    assert all((tmp_path / "out" / name).read_bytes() == name.encode() for name in FILES)
    assert {n for label, n, _ in manifest["notes"] if label == "processor"} == set(FILES[:3])
    assert {n for label, n, _ in manifest["notes"] if label == "tokenizer"} == set(FILES[3:])
    assert config_of(tmp_path / "out") == {
        "model_type": "llama",
        "dtype": "bfloat16",
        "text_config": {"dtype": "bfloat16", "hidden_size": 8},
        "vision_config": {"hidden_size": 4},
    }
