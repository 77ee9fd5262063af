"""Byte-level BPE: the pre-tokenizer is recognized by what it does, and what differs is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remerge.errors import CheckpointError
from remerge.quantize.core.tokenizer_files import read_tokenizer_files
from remerge.quantize.core.vocabulary import Vocabulary
from remerge.quantize.gguf.byte_level import read_byte_level
from remerge.vocabulary.tokenizer import CONTROL, UNUSED
from tests.quantize.tiny_models import ROWS, save_model, save_tokenizer

#: Kind of tokenizer → what llama.cpp calls its pre-tokenizer.
NAMES = {
    "llama3": "llama-bpe",
    "dbrx": "dbrx",
    "qwen2": "qwen2",
    "tekken": "tekken",
    "gpt-2": "gpt-2",
    "starcoder": "starcoder",
    "refact": "starcoder",
}


def read(folder: Path) -> Vocabulary:
    return read_byte_level(read_tokenizer_files(folder), ROWS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tokenizer(tmp_path, "llama3")
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("kind", NAMES)
def test_a_pre_tokenizer_is_recognized_by_its_steps(tmp_path: Path, kind: str) -> None:
    save_tokenizer(tmp_path, kind)
    vocabulary = read(tmp_path)
    assert (vocabulary.model, vocabulary.pre) == ("gpt2", NAMES[kind])
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    assert [tuple(m.split(" ")) for m in vocabulary.merges] == [
        tuple(m) for m in document["model"]["merges"]
    ]
    special = [text for text, k in zip(vocabulary.texts, vocabulary.kinds, strict=True) if k == 3]
    assert special == [each["content"] for each in document["added_tokens"]]
    assert vocabulary.kinds[-1] == UNUSED
    assert vocabulary.kinds[vocabulary.special["eos"]] == CONTROL
    assert any("NFC" in note for note in vocabulary.notes) == (kind == "qwen2")


def test_bos_is_added_as_the_post_processor_says(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from transformers import AutoTokenizer

    from remerge.quantize import quantize
    from tests.quantize.runtimes import load_gguf

    folder = save_model(tmp_path / "model", "llama3")
    save_tokenizer(folder, "llama3", bos=True)
    quantize(folder, tmp_path / "out", "gguf_f16")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with closing(load_gguf(tmp_path / "out" / "model.gguf")) as runtime:
        body = {"content": "the fox", "add_special": True, "parse_special": True}
        found = runtime._server.ask("POST", "/tokenize", body)["tokens"]
    assert found == tokenizer("the fox")["input_ids"]
    assert found[0] == tokenizer.bos_token_id


def _pattern(document: dict[str, Any]) -> None:
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W+"


def _prefix(document: dict[str, Any]) -> None:
    document["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True


def _byte(document: dict[str, Any]) -> None:
    vocabulary = document["model"]["vocab"]
    vocabulary["other"] = vocabulary.pop("\u0100")


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "pattern": (_pattern, "no pre-tokenizer that splits like"),
    "prefix": (_prefix, "pre_tokenizer 'ByteLevel' as it is set here"),
    "normalizer": (lambda d: d.update(normalizer={"type": "NFKC"}), "normalizer 'NFKC'"),
    "byte": (_byte, "has no token .* for one of the 256 bytes"),
    "dropout": (lambda d: d["model"].update(dropout=0.5), "has no dropout"),
    "merge": (lambda d: d["model"]["merges"].append(["x", "~~"]), "makes no token"),
    "twice": (lambda d: d["model"]["merges"].append(d["model"]["merges"][0]), "listed twice"),
    "number": (lambda d: d["added_tokens"][0].update(id=3), "transformers numbers it"),
    "strip": (lambda d: d["added_tokens"][0].update(lstrip=True), "llama.cpp has no lstrip"),
    "unigram": (lambda d: d["model"].update(vocab=[["a", 0.0]]), "no vocabulary of a BPE model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_would_split_otherwise_is_refused(folder: Path, case: str) -> None:
    change, says = REFUSED[case]
    edit(folder, change)
    with pytest.raises(CheckpointError, match=says) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_its_json_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json; save the tokenizer"):
        read(folder)
