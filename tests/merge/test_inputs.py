"""What inputs are called, and which merges may take over each other's finished shards."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from remerge.adapters.peft_files import read_adapter
from remerge.baking.bake import plan_bake
from remerge.errors import CheckpointError, NumericError, RecipeError
from remerge.methods.gradient import Gradient, plan_gradient
from remerge.shards.artefact import build, resume_key
from remerge.shards.inputs import distinct_labels, input_identity
from remerge.tensors.checkpoint import open_checkpoint
from tests.merge.families import random_weights, write_model
from tests.merge.test_plans import write_adapter

LIKE = {"dtype": "F16", "shard_bytes": 10**9}


def test_inputs_are_called_by_as_much_of_their_path_as_tells_them_apart(tmp_path: Path) -> None:
    assert distinct_labels(["models/base", "adapters/kimiko"]) == ["base", "kimiko"]
    assert distinct_labels(["run1/final", "run2/final", "x"]) == ["run1/final", "run2/final", "x"]
    assert distinct_labels(["a/x/m", "b/x/m", "c/y/m"]) == ["a/x/m", "b/x/m", "y/m"]
    assert distinct_labels([tmp_path / "m", tmp_path / "m"]) == ["m", "m"]
    assert distinct_labels(["m", Path.cwd() / "m", "./m"]) == ["m", "m", "m"]
    assert distinct_labels([f"../{Path.cwd().name}/m"]) == ["m"]
    assert distinct_labels(["."]) == [Path.cwd().name]
    assert distinct_labels(["/m", "/a/m"]) == ["m", "a/m"]


def test_two_inputs_of_one_label_are_refused(tmp_path: Path) -> None:
    """Resume key and manifest know inputs by label: of two alike, one would be forgotten."""
    model = open_checkpoint(write_model(tmp_path / "m", random_weights(0)), "hermes")
    write_adapter(tmp_path / "adapter", rank=5)
    with pytest.raises(RecipeError, match="'hermes' takes part more than once"):
        plan_bake(model, read_adapter(tmp_path / "adapter", "hermes"), **LIKE)
    other = open_checkpoint(write_model(tmp_path / "o", random_weights(1)), "hermes")
    with pytest.raises(RecipeError, match="'hermes' takes part more than once"):
        plan_gradient(model, other, Gradient((0.0, 1.0)), **LIKE)


def test_an_adapter_of_another_scale_is_another_bake(tmp_path: Path) -> None:
    """A fetched adapter is known by the model id of its weights; its scale stands elsewhere."""
    model = open_checkpoint(write_model(tmp_path / "m", random_weights(0)))
    adapter = tmp_path / "adapter"
    write_adapter(adapter, rank=5)
    (adapter / "manifest.json").write_text(json.dumps({"model_id": "0" * 64}))
    key = resume_key(plan_bake(model, read_adapter(adapter), **LIKE))
    config = json.loads((adapter / "adapter_config.json").read_text())
    for change in ({"lora_alpha": 4}, {"use_rslora": True}, {"alpha_pattern": {"up_proj": 1}}):
        (adapter / "adapter_config.json").write_text(json.dumps(config | change))
        assert resume_key(plan_bake(model, read_adapter(adapter), **LIKE)) != key


@pytest.mark.parametrize(
    "manifest", ['{"model_id": 3}', '{"model_id": "\\ud800"}', "[" * 5000, "[]", '{"model_id": ""}']
)
def test_a_folder_whose_manifest_says_no_model_id_is_known_by_its_files(
    tmp_path: Path, manifest: str
) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    one = input_identity(tmp_path)
    os.utime(tmp_path / "manifest.json", ns=(1, 1))
    assert set(one) == {"folder", "files"} and input_identity(tmp_path) != one


def test_models_without_weights_are_refused_by_every_merge(tmp_path: Path) -> None:
    empty = open_checkpoint(write_model(tmp_path / "empty", {}))
    model = open_checkpoint(write_model(tmp_path / "m", random_weights(0)))
    write_adapter(tmp_path / "adapter", rank=5)
    with pytest.raises(CheckpointError, match=r"empty: .*holds no weights"):
        plan_bake(empty, read_adapter(tmp_path / "adapter"), **LIKE)
    for pair in ((empty, model), (model, empty)):
        with pytest.raises(CheckpointError, match=r"empty: .*holds no weights"):
            plan_gradient(*pair, Gradient((0.0, 1.0)), **LIKE)


@pytest.mark.parametrize("updated", [False, True])
def test_a_bad_number_in_a_saved_module_is_the_adapters(tmp_path: Path, updated: bool) -> None:
    model = open_checkpoint(write_model(tmp_path / "m", random_weights(0)))
    folder = tmp_path / "adapter"
    folder.mkdir()
    head = np.zeros((33, 8), np.float32)
    head[3, 2] = np.nan
    tensors = {"base_model.model.lm_head.weight": head}
    if updated:
        tensors["base_model.model.lm_head.lora_A.weight"] = np.ones((2, 8), np.float32)
        tensors["base_model.model.lm_head.lora_B.weight"] = np.ones((33, 2), np.float32)
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "modules_to_save": ["lm_head"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    plan = plan_bake(model, read_adapter(folder), **LIKE)
    with pytest.raises(NumericError, match=r"^adapter: tensor 'lm_head.weight' holds nan at.*3, 2"):
        build(plan, tmp_path / "out", companions={}, scratch=tmp_path / "scratch", threads=1)


def test_a_bake_says_that_it_reads_a_and_b(tmp_path: Path) -> None:
    model = open_checkpoint(write_model(tmp_path / "m", random_weights(0)))
    write_adapter(tmp_path / "adapter", rank=5)
    plan = plan_bake(model, read_adapter(tmp_path / "adapter"), **LIKE)
    read = {t.name: [i.path.parent.name for i in plan.reads(t)] for t in plan.shards[0].tensors}
    assert read["model.layers.1.mlp.up_proj.weight"] == ["m", "adapter", "adapter"]
    assert read["lm_head.weight"] == ["m"]
