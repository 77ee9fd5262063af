"""Which order a model's tensors have, and that no accident of a moment decides it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from remerge.errors import CheckpointError, ToolError
from remerge.shards.order import in_state_dict_order, state_dict_order
from remerge.tensors.checkpoint import open_checkpoint
from tests.proof.models import CONFIG, llama, save

NAMES = list(llama(0))
JUMBLED = sorted(NAMES, reverse=True)
#: Built like Llama, and not among the orders that are data: transformers is asked.
ASKED = {**CONFIG, "model_type": "granite"}


def test_the_order_is_the_state_dicts_and_is_kept_for_the_next_model(tmp_path: Path) -> None:
    assert state_dict_order(ASKED, JUMBLED, tmp_path) == (NAMES, True)
    (kept,) = tmp_path.iterdir()
    assert json.loads(kept.read_text()) == NAMES
    assert state_dict_order(ASKED, JUMBLED, tmp_path) == (NAMES, True)


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(5, "Input/output error"), ImportError("x")]
)
def test_a_passing_failure_is_an_error_and_decides_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as patched:

        def fails(*_: object, **__: object) -> None:
            raise error

        patched.setattr(transformers.AutoModelForCausalLM, "from_config", fails)
        with pytest.raises(ToolError, match=r"order of the tensors of a granite cannot be told"):
            state_dict_order(ASKED, JUMBLED, tmp_path)
    assert state_dict_order(ASKED, JUMBLED, tmp_path) == (NAMES, True)


@pytest.mark.parametrize("text", ["[]", "{}", "[1, 2]", '{"a": 1}', "", "nonsense"])
def test_what_is_no_order_is_not_believed(tmp_path: Path, text: str) -> None:
    state_dict_order(ASKED, JUMBLED, tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_text(text)
    assert state_dict_order(ASKED, JUMBLED, tmp_path) == (NAMES, True)


def test_a_model_that_is_not_known_is_asked_for_again(tmp_path: Path) -> None:
    order, known = state_dict_order({"model_type": "of tomorrow"}, ["b.10", "b.9", "a"], tmp_path)
    assert (order, known) == (["a", "b.9", "b.10"], False)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_library_gets_the_order_of_its_state_dict(tmp_path: Path) -> None:
    tensors = llama(0)
    model = open_checkpoint(save(tmp_path / "m", {name: tensors[name] for name in JUMBLED}))
    assert list(model.tensors) == JUMBLED
    ordered, known = in_state_dict_order(model, tmp_path / "orders")
    assert known and list(ordered.tensors) == NAMES and ordered.tensors == model.tensors
    (model.folder / "manifest.json").write_text(json.dumps({"order": JUMBLED}))
    ours = open_checkpoint(model.folder)
    assert in_state_dict_order(ours, tmp_path / "orders") == (ours, True)


def test_without_a_config_the_order_is_the_files_and_not_known(tmp_path: Path) -> None:
    tensors = llama(0)
    folder = save(tmp_path / "m", {name: tensors[name] for name in JUMBLED})
    for config in ("{}", '{"model_type": 3}', None):
        (folder / "config.json").unlink()
        if config is not None:
            (folder / "config.json").write_text(config)
        model = open_checkpoint(folder)
        assert in_state_dict_order(model, tmp_path / "orders") == (model, False)
        (folder / "config.json").write_text("{}")


def test_a_place_for_orders_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert state_dict_order(CONFIG, JUMBLED, tmp_path / "file" / "orders") == (NAMES, True)


def test_a_config_of_another_model_is_named_with_its_folder(tmp_path: Path) -> None:
    model = open_checkpoint(save(tmp_path / "m", llama(0)))
    config = model.folder / "config.json"
    config.write_text(json.dumps(CONFIG | {"num_hidden_layers": 10**9}))
    with pytest.raises(CheckpointError, match=rf"^{config}: num_hidden_layers is 1000000000"):
        in_state_dict_order(model, tmp_path / "orders")
