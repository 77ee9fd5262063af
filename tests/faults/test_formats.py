"""Models whose quantized copy would split a text otherwise than the model itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remerge.errors import CheckpointError
from remerge.quantize import quantize
from tests.faults.rows import fault
from tests.quantize.conftest import save_llama


@fault(
    100,
    "a model whose tokenizer.json and tokenizer.model are of two trainings",
    sees="`error: …/tokenizer.json and tokenizer.model beside it differ: token 300 is 'a' and 'b'; "
    "keep the one that the model was trained with`, before anything is written",
    then="the same",
)
@pytest.mark.parametrize("name", ["gguf_f16", "ggml_f16"])
def test_two_tokenizers_that_differ_are_refused(tmp_path: Path, name: str) -> None:
    from transformers import AutoTokenizer

    folder = save_llama(tmp_path / "model", num_hidden_layers=1)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    one, other = list(vocabulary)[300:302]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"tokenizer\.model beside it differ: token 300 is"):
        quantize(folder, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()
