"""The ids that llama.cpp gives on a GGUF are those of transformers, for each kind of tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remerge.errors import CheckpointError
from remerge.quantize import quantize
from remerge.quantize.core.rebuilt_pieces import rebuild_pieces
from remerge.runtimes.programs import open_llama_cpp
from remerge.vocabulary.tokenizer import read_sentencepiece

PLAIN = (
    "the quick brown fox",
    "fox  over   the ",
    "\n\nsort\n",
    "\tsort",
    "123 456 7,81",
    "na\u00efve caf\u00e9 e\u0301 \u6771\u4eac \u3053\u3093 \U0001f600",
    "a\u2581b",
    "### Instruction: add 12\n\n### Response:",
    "<0x41>",
    "",
)
#: What LlamaTokenizer of transformers 5 and llama.cpp prefix differently: see tokenizer_settings.
SPACES = (" the", "   the", " ", "  ", "\u2581")
SPECIAL = ("a</s>b", "a</s> b", "<s>the", "</s>", "<unk>x", "the<s> fox</s>")

PREPEND = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ],
}


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes a key out."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def resave(folder: Path, **settings: Any) -> None:
    """Save the tokenizer as transformers 5 does, which leaves out `add_bos_token`."""
    from transformers import AutoTokenizer

    edit(folder / "tokenizer_config.json", **settings)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)


def alone(folder: Path) -> None:
    resave(folder)
    (folder / "tokenizer.model").unlink()


def generic(folder: Path, **changes: Any) -> None:
    """A tokenizer that is what its tokenizer.json says."""
    resave(folder)
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def metaspace(scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}


KINDS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "prefix": (lambda f: None, PLAIN),
    "no prefix": (
        lambda f: edit(f / "tokenizer_config.json", add_prefix_space=False),
        PLAIN + SPACES + SPECIAL,
    ),
    "legacy prefix": (
        lambda f: edit(f / "tokenizer_config.json", legacy=True),
        (*PLAIN, "a</s>b", "<s>the"),
    ),
    "settings against post-processor": (
        lambda f: (resave(f), edit(f / "tokenizer_config.json", add_bos_token=False)),
        PLAIN,
    ),
    "added token that is normalized": (
        lambda f: (
            edit(f / "tokenizer_config.json", add_prefix_space=False),
            _added(f, normalized=True),
        ),
        PLAIN + SPACES,
    ),
    "adds eos": (lambda f: edit(f / "tokenizer_config.json", add_eos_token=True), PLAIN),
    "eos in post-processor": (lambda f: resave(f, add_eos_token=True), PLAIN),
    "no bos in post-processor": (lambda f: resave(f, add_bos_token=False), PLAIN),
    "no bos said": (
        lambda f: edit(f / "tokenizer_config.json", add_bos_token=None, add_eos_token=None),
        PLAIN,
    ),
    "bos is null": (
        lambda f: (f / "tokenizer_config.json").write_text(
            json.dumps(json.loads((f / "tokenizer_config.json").read_text()) | {"bos_token": None})
        ),
        PLAIN,
    ),
    "bos as object": (
        lambda f: edit(
            f / "tokenizer_config.json", bos_token={"content": "<s>", "__type": "AddedToken"}
        ),
        PLAIN,
    ),
    "tokenizer.json alone": (alone, PLAIN),
    "no settings": (
        lambda f: (f / "tokenizer_config.json").unlink(),
        PLAIN + SPACES + SPECIAL,
    ),
    "prepend": (
        lambda f: generic(f, normalizer=PREPEND, pre_tokenizer=None),
        PLAIN + SPACES + SPECIAL,
    ),
    "metaspace never": (
        lambda f: generic(f, pre_tokenizer=metaspace("never")),
        PLAIN + SPACES + SPECIAL,
    ),
    "metaspace always": (
        lambda f: generic(f, pre_tokenizer=metaspace("always")),
        (*PLAIN, "a</s>b", "<s>the"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_gives_the_ids_of_transformers(
    make_llama: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    from transformers import AutoTokenizer

    prepare, texts = KINDS[kind]
    folder = make_llama(num_hidden_layers=1, extra_rows=2)
    prepare(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    quantize(folder, tmp_path, "gguf_f16")
    with closing(open_llama_cpp(tmp_path / "model.gguf", context=64, threads=1)) as server:
        for text in texts:
            for special in (True, False):
                body = {"content": text, "add_special": special, "parse_special": True}
                found = server.ask("POST", "/tokenize", body)["tokens"]
                expected = tokenizer(text, add_special_tokens=special)["input_ids"]
                assert found == expected, (text, special)


def test_leading_spaces_are_those_of_sentencepiece(tiny_llama: Path, tmp_path: Path) -> None:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tiny_llama / "tokenizer.model"))
    quantize(tiny_llama, tmp_path, "gguf_f16")
    with closing(open_llama_cpp(tmp_path / "model.gguf", context=64, threads=1)) as server:
        for text in PLAIN + SPACES:
            assert server.tokenize(text, special=False) == pieces.encode(text)


def test_rebuilt_pieces_are_those_of_the_model(make_llama: Callable[..., Path]) -> None:
    folder = make_llama(num_hidden_layers=1)
    resave(folder)
    rebuilt = rebuild_pieces(folder / "tokenizer.json")
    assert rebuilt == read_sentencepiece(folder / "tokenizer.model").pieces


def _reverse_merges(folder: Path) -> None:
    alone(folder)
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["merges"] = document["model"]["merges"][1:]
    (folder / "tokenizer.json").write_text(json.dumps(document))


def _post_process(folder: Path) -> None:
    generic(folder)
    document = json.loads((folder / "tokenizer.json").read_text())
    document["post_processor"]["single"].append({"SpecialToken": {"id": "<s>", "type_id": 0}})
    (folder / "tokenizer.json").write_text(json.dumps(document))


def _strip(folder: Path) -> None:
    decoder = {"336": {"content": "<|x|>", "rstrip": True, "special": True}}
    edit(folder / "tokenizer_config.json", added_tokens_decoder=decoder)


def _other_text(folder: Path) -> None:
    """tokenizer.json of another training: two of its tokens have changed places."""
    resave(folder)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(document))


def _other_merges(folder: Path) -> None:
    resave(folder)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["merges"].reverse()
    path.write_text(json.dumps(document))


def _other_scores(folder: Path) -> None:
    """A tokenizer.model whose scores are in another order than its ids."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    path = folder / "tokenizer.model"
    model.ParseFromString(path.read_bytes())
    joined = [piece for piece in model.pieces if piece.type == 1 and len(piece.piece) > 1]
    joined[3].score, joined[4].score = joined[4].score, joined[3].score
    path.write_bytes(model.SerializeToString())


def _added(folder: Path, **flags: Any) -> None:
    decoder = {"336": {"content": "fox", "special": False, **flags}}
    edit(folder / "tokenizer_config.json", added_tokens_decoder=decoder)


def _lost(folder: Path) -> None:
    resave(folder, pad_token="<|pad|>")
    edit(folder / "tokenizer_config.json", added_tokens_decoder={}, pad_token=None)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["extra_special_tokens"] = []
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _overlap(folder: Path) -> None:
    decoder = {
        "336": {"content": "<|a", "special": True},
        "337": {"content": "a|b>", "special": True},
    }
    edit(folder / "tokenizer_config.json", added_tokens_decoder=decoder)


def _normalized(folder: Path) -> None:
    generic(folder, normalizer=PREPEND, pre_tokenizer=None)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    document["added_tokens"][1]["normalized"] = True
    path.write_text(json.dumps(document))


def _huge(folder: Path) -> None:
    decoder = {"9" * 5000: {"content": "<|x|>"}}
    edit(folder / "tokenizer_config.json", added_tokens_decoder=decoder)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "class": (
        lambda f: edit(f / "tokenizer_config.json", tokenizer_class="CodeLlamaTokenizer"),
        "tokenizer_class 'CodeLlamaTokenizer' cannot be written",
    ),
    "normalizer": (lambda f: generic(f, normalizer={"type": "NFKC"}), "normalizer 'NFKC'"),
    "pre-tokenizer": (
        lambda f: generic(f, pre_tokenizer={"type": "ByteLevel"}),
        "pre_tokenizer 'ByteLevel'",
    ),
    "missing merge": (_reverse_merges, "llama.cpp would join them"),
    "post-processor": (_post_process, "llama.cpp can add only the bos_token before"),
    "rstrip": (_strip, "llama.cpp has no rstrip"),
    "single word": (
        lambda f: _added(f, single_word=True),
        "llama.cpp has no single_word, which token 'fox'",
    ),
    "strip of a role": (
        lambda f: edit(
            f / "tokenizer_config.json",
            bos_token={"__type": "AddedToken", "content": "<s>", "lstrip": True},
        ),
        "llama.cpp has no lstrip, which token '<s>'",
    ),
    "huge number": (_huge, "is no token's number"),
    "two texts": (_other_text, "tokenizer.json and tokenizer.model beside it differ: token"),
    "two orders": (_other_merges, "tokenizer.json and tokenizer.model beside it differ: the first"),
    "scores not by id": (_other_scores, "scores as much or more: transformers would"),
    "added by one file": (_lost, "tokenizer.json adds '<|pad|>', added_tokens_decoder"),
    "overlap": (_overlap, "added tokens '<|a' and 'a|b>' overlap in '<|a|b>'"),
    "normalized": (_normalized, "is normalized, so transformers finds it only behind a space"),
    "number": (
        lambda f: edit(
            f / "tokenizer_config.json",
            added_tokens_decoder={"300": {"content": "<|user|>", "special": True}},
        ),
        "is token 300, transformers numbers it 336",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_cannot_do_is_refused(
    make_llama: Callable[..., Path], tmp_path: Path, case: str
) -> None:
    prepare, message = REFUSED[case]
    folder = make_llama(num_hidden_layers=1, extra_rows=2)
    prepare(folder)
    with pytest.raises(CheckpointError, match=re.escape(message)) as raised:
        quantize(folder, tmp_path / "out", "gguf_f16")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("setting", [{"add_prefix_space": False}, {"add_eos_token": True}])
def test_ggml_refuses_what_its_readers_do_not_add(
    make_llama: Callable[..., Path], tmp_path: Path, setting: dict[str, bool]
) -> None:
    folder = make_llama(num_hidden_layers=1)
    edit(folder / "tokenizer_config.json", **setting)
    with pytest.raises(CheckpointError, match="cannot say what its tokenizer adds"):
        quantize(folder, tmp_path / "out", "ggml_f16")
