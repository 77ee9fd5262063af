"""Tokens beyond the SentencePiece model, special tokens by all their names, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remerge.errors import CheckpointError
from remerge.quantize import quantize
from remerge.quantize.core.rebuilt_pieces import rebuild_pieces
from remerge.quantize.core.vocabulary import read_vocabulary
from remerge.vocabulary.tokenizer import CONTROL, NORMAL, UNUSED, USER_DEFINED
from tests.quantize.conftest import VOCABULARY

ADDED = ("<|im_start|>", "<|im_end|>", "<pad>")


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file, which need not exist; None takes a key out."""
    values = json.loads(path.read_text()) if path.exists() else {}
    values |= changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture(scope="module")
def with_chat_tokens(make_llama: Callable[..., Path]) -> Path:
    """A model to whose tokenizer transformers added three tokens, saved as it saves one today."""
    from transformers import LlamaTokenizer

    folder = make_llama(extra_rows=3, num_hidden_layers=1, eos_token_id=VOCABULARY + 1)
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens(
        {"eos_token": ADDED[1], "pad_token": ADDED[2], "additional_special_tokens": [ADDED[0]]}
    )
    assert {tokenizer.convert_tokens_to_ids(text) for text in ADDED} == {336, 337, 338}
    model = (folder / "tokenizer.model").read_bytes()
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(model)
    return folder


def test_tokens_that_transformers_added_have_their_texts_and_roles(with_chat_tokens: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(with_chat_tokens)
    vocabulary = read_vocabulary(with_chat_tokens, VOCABULARY + 3)
    assert vocabulary.texts[VOCABULARY:] == tuple(tokenizer.convert_ids_to_tokens([336, 337, 338]))
    assert vocabulary.kinds[VOCABULARY:] == (CONTROL,) * 3
    assert vocabulary.special["eos"] == tokenizer.eos_token_id
    assert vocabulary.special["pad"] == tokenizer.pad_token_id
    assert vocabulary.special["bos"] == 1
    assert vocabulary.notes == ()


def test_llama_cpp_reads_an_added_token_as_one(with_chat_tokens: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from transformers import AutoTokenizer

    from tests.quantize.runtimes import load_gguf

    tokenizer = AutoTokenizer.from_pretrained(with_chat_tokens)
    quantize(with_chat_tokens, tmp_path, "gguf_f16")
    ids = [1, tokenizer.convert_tokens_to_ids(ADDED[0])]
    with closing(load_gguf(tmp_path / "model.gguf")) as model:
        assert np.array_equal(model.log_probabilities(ADDED[0]), model.log_probabilities(ids))


def test_tokens_are_those_that_transformers_adds(make_llama: Callable[..., Path]) -> None:
    from transformers import AutoTokenizer

    folder = make_llama(extra_rows=4, num_hidden_layers=1)
    (folder / "added_tokens.json").write_text(json.dumps({"<a>": 336, "<b>": 337}))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": "<pad>", "additional_special_tokens": ["<b>"]})
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = read_vocabulary(folder, 340)
    assert vocabulary.texts[336:] == ("<a>", "<b>", "<pad>", "[PAD339]")
    assert vocabulary.texts[336:339] == tuple(tokenizer.convert_ids_to_tokens([336, 337, 338]))
    assert vocabulary.kinds[336:] == (USER_DEFINED, CONTROL, CONTROL, UNUSED)
    assert vocabulary.special["pad"] == tokenizer.pad_token_id == 338


def test_a_decoder_in_the_settings_hides_the_older_files(make_llama: Callable[..., Path]) -> None:
    from transformers import AutoTokenizer

    folder = make_llama(extra_rows=2, num_hidden_layers=1)
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<pad>"}))
    decoder = {"336": {"content": "<a>", "special": False}}
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder=decoder)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    vocabulary = read_vocabulary(folder, 338)
    assert vocabulary.texts[336:] == ("<a>", "[PAD337]")
    assert "pad" not in vocabulary.special


def test_a_piece_may_be_given_another_reading(folder: Path) -> None:
    plain = read_vocabulary(folder, 336)
    assert plain.kinds[300:302] == (NORMAL, NORMAL)
    decoder = {
        "1": {"content": "<s>", "special": True},
        "300": {"content": plain.texts[300], "special": True},
        "301": {"content": plain.texts[301], "special": False},
    }
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder=decoder)
    vocabulary = read_vocabulary(folder, 336)
    assert vocabulary.texts == plain.texts
    assert vocabulary.kinds[300:302] == (CONTROL, USER_DEFINED)
    # What was special from the first is listed again by every tokenizer and stays what it is.
    assert vocabulary.scores[:300] == plain.scores[:300]
    assert vocabulary.kinds[:300] == plain.kinds[:300]


@pytest.mark.parametrize(
    ("settings", "config", "eos"),
    [
        ({"eos_token": {"content": "</s>"}}, {}, 2),
        ({"eos_token": None}, {"eos_token_id": 7}, 7),
        ({"eos_token": None}, {"eos_token_id": [9, 2]}, 9),
        ({"eos_token": "<|nowhere|>"}, {"eos_token_id": 7}, 7),
        ({"eos_token": "<|nowhere|>"}, {"eos_token_id": 4000}, 2),
        ({"eos_token": None}, {"eos_token_id": None}, 2),
    ],
)
def test_the_end_of_text_is_found_by_name_then_by_id(
    folder: Path, settings: dict[str, Any], config: dict[str, Any], eos: int
) -> None:
    edit_json(folder / "tokenizer_config.json", **settings)
    edit_json(folder / "config.json", **config)
    vocabulary = read_vocabulary(folder, 336)
    assert vocabulary.special["eos"] == eos
    told = [note for note in vocabulary.notes if "eos_token <|nowhere|>" in note]
    assert len(told) == (settings["eos_token"] == "<|nowhere|>")


def test_a_name_that_is_null_does_not_hide_the_one_of_the_other_file(folder: Path) -> None:
    edit_json(folder / "special_tokens_map.json", pad_token="<unk>")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": None}))
    assert read_vocabulary(folder, 336).special["pad"] == 0


@pytest.mark.parametrize("name", ["gguf_f16", "ggml_f16", "gptq_4bit_128g"])
def test_a_model_that_no_token_ends_is_refused(
    folder: Path, tmp_path: Path, text: Path, name: str
) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "tokenizer.model").unlink()
    listed = json.loads((folder / "tokenizer.json").read_text())["added_tokens"][:2]
    edit_json(folder / "tokenizer.json", added_tokens=listed)
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        eos_token=None,
        extra_special_tokens=None,
    )
    edit_json(folder / "config.json", eos_token_id=None)
    with pytest.raises(CheckpointError, match="which token ends a text"):
        quantize(folder, tmp_path / "out", name, calibration=text)


@pytest.mark.parametrize("name", ["gguf_f16", "ggml_f16", "gptq_4bit_128g"])
def test_a_byte_that_is_none_is_refused(
    folder: Path, tmp_path: Path, text: Path, name: str
) -> None:
    path = folder / "tokenizer.model"
    path.write_bytes(path.read_bytes().replace(b"<0x41>", b"<0xZZ>"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: piece 68 .*'<0xZZ>'"):
        quantize(folder, tmp_path / "out", name, calibration=text)


def test_a_ggml_file_cannot_name_its_special_tokens(with_chat_tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot say that eos is token"):
        quantize(with_chat_tokens, tmp_path / "out", "ggml_f16")


def test_padding_rows_are_unused_and_tokens_without_a_row_are_told(
    make_llama: Callable[..., Path],
) -> None:
    folder = make_llama(extra_rows=3, num_hidden_layers=1)
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 336, "word": 337, "<far>": 338}))
    short, long = read_vocabulary(folder, 338), read_vocabulary(folder, 340)
    assert short.texts[336:] == ("<pad>", "word")
    assert short.notes == ("token 338 (<far>) has no row in the embedding: left out",)
    assert long.texts[336:] == ("<pad>", "word", "<far>", "[PAD339]")
    assert long.kinds[336:] == (USER_DEFINED, USER_DEFINED, USER_DEFINED, UNUSED)
    assert long.notes == ("1 rows of the embedding have no token: padded",)


@pytest.mark.parametrize("key", ["9" * 5000, "9" * 13, "\u0661", "\u00b2", "-1", "", "1 "])
def test_a_key_that_is_no_token_number_is_refused(folder: Path, key: str) -> None:
    entry = {"content": "<x>", "special": True}
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder={key: entry})
    with pytest.raises(CheckpointError, match="is no token's number"):
        read_vocabulary(folder, VOCABULARY)


def test_a_token_of_a_megabyte_is_refused_at_once(tmp_path: Path) -> None:
    model = {"type": "BPE", "byte_fallback": True, "vocab": {"a" * 1_000_000: 0, "a": 1}}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {**model, "merges": []}}))
    with pytest.raises(CheckpointError, match="longer than 1024 characters"):
        rebuild_pieces(tmp_path / "tokenizer.json")
