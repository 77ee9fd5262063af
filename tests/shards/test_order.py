"""Which order an opened model's tensors have, whatever the order in its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remerge.errors import CheckpointError
from remerge.methods.gradient import Gradient, in_order_for
from remerge.shards.order import check_layers, in_state_dict_order
from remerge.tensors.checkpoint import open_checkpoint
from tests.proof.models import CONFIG, llama, save

NAMES = list(llama(0))
JUMBLED = sorted(NAMES, reverse=True)


def test_known_order_counts_whatever_file_and_manifest_have(tmp_path: Path) -> None:
    tensors = llama(0)
    model = open_checkpoint(save(tmp_path / "m", {name: tensors[name] for name in JUMBLED}))
    assert list(model.tensors) == JUMBLED
    ordered, known = in_state_dict_order(model)
    assert known and list(ordered.tensors) == NAMES and ordered.tensors == model.tensors
    (model.folder / "manifest.json").write_text(json.dumps({"order": JUMBLED}))
    again, known = in_state_dict_order(open_checkpoint(model.folder))
    assert known and list(again.tensors) == NAMES


@pytest.mark.parametrize("config", ["{}", '{"model_type": 3}', '{"model_type": "of tomorrow"}', ""])
def test_unknown_order_is_that_of_names_and_never_counted(tmp_path: Path, config: str) -> None:
    tensors = llama(0)
    orders = []
    for number, names in enumerate((NAMES, JUMBLED)):
        folder = save(tmp_path / f"{number}", {name: tensors[name] for name in names})
        (folder / "config.json").unlink()
        if config:
            (folder / "config.json").write_text(config)
        ordered, known = in_state_dict_order(open_checkpoint(folder))
        assert not known
        orders.append(list(ordered.tensors))
    assert orders[0] == orders[1] == sorted(NAMES)
    # An artefact of this library records its order, which is no reason to count by it.
    (folder / "manifest.json").write_text(json.dumps({"order": JUMBLED}))
    model = open_checkpoint(folder)
    assert in_state_dict_order(model) == (model, False)
    with pytest.raises(
        CheckpointError, match=r"order of its tensors is not known .*--along layers"
    ):
        in_order_for(Gradient((0.0, 1.0)), model)
    assert in_order_for(Gradient((0.0, 1.0), along="layers"), model) == model


def test_a_config_of_another_model_is_named_with_its_folder(tmp_path: Path) -> None:
    model = open_checkpoint(save(tmp_path / "m", llama(0)))
    config = model.folder / "config.json"
    config.write_text(json.dumps(CONFIG | {"num_hidden_layers": 10**9}))
    with pytest.raises(CheckpointError, match=rf"^{config}: num_hidden_layers is 1000000000"):
        in_state_dict_order(model)


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "n_layers", "encoder_layers"])
def test_layers_are_counted_in_nested_configs(key: str) -> None:
    check_layers({"text_config": {key: 20}}, 20)
    with pytest.raises(CheckpointError, match=key):
        check_layers({"text_config": {key: 21}}, 20)


@pytest.mark.parametrize("key", ["max_window_layers", "num_experts", "n_routed_experts"])
def test_other_entries_are_no_counts_of_layers(key: str) -> None:
    check_layers({"model_type": "qwen2", key: 999}, 20)
