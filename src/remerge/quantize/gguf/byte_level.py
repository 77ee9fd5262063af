"""Byte-level BPE tokenizers, which `tokenizer.json` describes, as a GGUF file lists them.

>>> vocabulary = read_byte_level(files, rows=152064)
>>> vocabulary.pre
'qwen2'

llama.cpp has its pre-tokenizers compiled in and takes one by name. Which one is recognized by what
the tokenizer does, that is by the steps of its normalizer and pre-tokenizer, so that a fine-tune
with other tokens or other merges is recognized too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.quantize.core.rebuilt_pieces import bpe_model, check_length, read_merges
from remerge.quantize.core.tokenizer_files import (
    GENERIC,
    GPT2,
    QWEN2,
    TokenizerFiles,
    check_added,
    number_added,
)
from remerge.quantize.core.tokenizer_settings import steps, surroundings, unsayable
from remerge.quantize.core.vocabulary import Vocabulary, special_ids
from remerge.vocabulary.tokenizer import CONTROL, NORMAL, UNUSED, USER_DEFINED

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FRONT = r"[^\r\n\p{L}\p{N}]?"
#: The regular expression of GPT-2, which ByteLevel has built in.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2 = _CONTRACTIONS + _WORDS + r"\p{N}" + _REST
_LLAMA3 = _CONTRACTIONS + _WORDS + r"\p{N}{1,3}" + _REST
_TEKKEN = (
    f"{_FRONT}{_UPPER}*{_LOWER}+|{_FRONT}{_UPPER}+{_LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class _Splitting:
    """What stands before the merges: `digits` splits off every digit, then `pattern` splits.

    `whole` takes a word of the vocabulary without looking at the merges.
    """

    pattern: str
    digits: bool = False
    whole: bool = False


#: What llama.cpp calls each way of splitting, by `llama_vocab` of its sources.
_NAMES = {
    _Splitting(_LLAMA3, whole=True): "llama-bpe",
    _Splitting(_LLAMA3): "dbrx",
    _Splitting(_QWEN2): "qwen2",
    _Splitting(_TEKKEN, whole=True): "tekken",
    _Splitting(_GPT2): "gpt-2",
    _Splitting(_GPT2, digits=True): "starcoder",
}
#: What each does otherwise than tokenizers.
_NOTES = {
    "tekken": "llama.cpp knows only the capitals A to Z in its pre-tokenizer tekken: words with "
    "others may become other tokens than in transformers",
}
_NFC = (
    "the tokenizer composes characters (NFC), llama.cpp does not: a text with decomposed accents "
    "becomes other tokens than in transformers"
)
_PATTERN_LIMIT = 4096


def is_byte_level(files: TokenizerFiles) -> bool:
    """Whether the tokens of a model stand for bytes: by its class, else by its pre-tokenizer."""
    if files.kind != GENERIC:
        return files.kind in (QWEN2, GPT2)
    listed = steps(files.document.get("pre_tokenizer"), "pretokenizers")
    return any(step.get("type") == "ByteLevel" for step in listed)


def read_byte_level(files: TokenizerFiles, rows: int) -> Vocabulary:
    """Read the vocabulary of a byte-level BPE tokenizer.

    Args:
        files: The tokenizer's files.
        rows: Rows of the embedding.

    Returns:
        Texts, kinds, merges and the name of the pre-tokenizer; no scores.

    Raises:
        CheckpointError: llama.cpp would split texts otherwise than transformers, or a file is
            damaged or missing.
    """
    folder, path = files.folder, files.folder / "tokenizer.json"
    if not files.document:
        raise CheckpointError(
            f"{folder}: has no tokenizer.json; save the tokenizer with transformers, which writes "
            "it from vocab.json and merges.txt"
        )
    model, known = bpe_model(files.document, path)
    _check_model(model, known, path)
    merges = _merges(model, known, path)
    pre, notes = _recognize(files, model)
    numbers = number_added(files, known, rows)
    for text in numbers:
        check_length(text, folder)
    check_added(files, numbers, rows)
    _check_normalized(files, folder)
    special = {each.text: each.special for each in files.added}
    table = {token: (text, NORMAL) for text, token in known.items()}
    for text, token in numbers.items():
        table[token] = (text, CONTROL if special[text] else USER_DEFINED)
    beyond = [f"token {t} ({printable(table[t][0], 40)})" for t in sorted(table) if t >= rows]
    notes += [f"{each} has no row in the embedding: left out" for each in beyond]
    padding = [token for token in range(rows) if token not in table]
    if padding:
        notes.append(f"{len(padding)} rows of the embedding have no token: padded")
    for token in padding:
        table[token] = (f"[PAD{token}]", UNUSED)
    texts, kinds = zip(*(table[token] for token in range(rows)), strict=True)
    ids, more = special_ids(files, texts, kinds)
    add_bos, add_eos = surroundings(files, {**known, **numbers})
    return Vocabulary(
        texts,
        (),
        kinds,
        ids,
        add_bos,
        add_eos,
        False,
        (*notes, *more),
        "gpt2",
        pre,
        merges,
    )


def _byte_texts() -> set[str]:
    """The characters that stand for the 256 bytes: printable ones for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return {chr(byte) for byte in plain} | {chr(0x100 + i) for i in range(256 - len(plain))}


def _check_model(model: Mapping[str, Any], known: Mapping[str, int], path: Path) -> None:
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise CheckpointError(
                f"{path}: llama.cpp has no {key} for byte-level tokens; its tokens would be others"
            )
    if len(set(known.values())) != len(known):
        raise CheckpointError(f"{path}: two tokens of its vocabulary have one number")
    missing = sorted(_byte_texts() - known.keys())
    if missing:
        raise CheckpointError(
            f"{path}: its vocabulary has no token {missing[0]!r} for one of the 256 bytes; "
            "llama.cpp cannot leave out what it cannot split"
        )


def _merges(model: dict[str, Any], known: Mapping[str, int], path: Path) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for left, right in read_merges(model, path):
        merge = f"{left} {right}"
        if merge in found or not {left, right, left + right} <= known.keys():
            raise CheckpointError(
                f"{path}: merge {printable(merge, 40)!r} is listed twice or makes no token of the "
                "vocabulary; fetch it again"
            )
        if " " in left or " " in right:
            raise CheckpointError(f"{path}: merge {printable(merge, 40)!r} holds a space")
        found[merge] = None
    return tuple(found)


def _recognize(files: TokenizerFiles, model: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The name of the pre-tokenizer in llama.cpp, and what it does otherwise."""
    splitting, composed = _splitting(files, model)
    name = _NAMES.get(splitting)
    if name is None:
        whole = " and ignore_merges" if splitting.whole else ""
        raise CheckpointError(
            f"{files.folder}: tokenizer.json: llama.cpp has no pre-tokenizer that splits like "
            f"{printable(splitting.pattern, 80)!r}{whole}; known are those of "
            f"{', '.join(_NAMES.values())}"
        )
    notes = [_NOTES[name]] if name in _NOTES else []
    return name, [*notes, *([_NFC] if composed else [])]


def _splitting(files: TokenizerFiles, model: Mapping[str, Any]) -> tuple[_Splitting, bool]:
    """How texts are split, and whether they are brought to NFC before."""
    if files.kind in (QWEN2, GPT2):
        if files.settings.get("add_prefix_space"):
            raise CheckpointError(
                f"{files.folder}: tokenizer_config.json: llama.cpp has no add_prefix_space for "
                "byte-level tokens"
            )
        pattern = _QWEN2 if files.kind == QWEN2 else _GPT2
        return _Splitting(pattern), files.kind == QWEN2
    composed = False
    for step in steps(files.document.get("normalizer"), "normalizers"):
        if step.get("type") != "NFC":
            raise unsayable(files.folder, "normalizer", step)
        composed = True
    digits = False
    patterns: list[str] = []
    for step in steps(files.document.get("pre_tokenizer"), "pretokenizers"):
        split = step.get("pattern")
        regex = split.get("Regex") if isinstance(split, dict) else None
        kind = step.get("type")
        if kind == "Split" and isinstance(regex, str) and _isolates(step) and not patterns:
            patterns.append(regex[:_PATTERN_LIMIT])
        elif kind == "Digits" and step.get("individual_digits") is True and not patterns:
            digits = True
        elif kind == "ByteLevel" and not step.get("add_prefix_space", True):
            if step.get("use_regex", True):
                patterns.append(_GPT2)
        else:
            raise unsayable(files.folder, "pre_tokenizer", step)
    if len(patterns) != 1:
        raise CheckpointError(
            f"{files.folder}: tokenizer.json: its pre_tokenizer splits {len(patterns)} times by "
            "regular expressions; llama.cpp knows no such pre-tokenizer"
        )
    return _Splitting(patterns[0], digits, bool(model.get("ignore_merges"))), composed


def _isolates(step: Mapping[str, Any]) -> bool:
    return step.get("behavior") == "Isolated" and not step.get("invert", False)


def _check_normalized(files: TokenizerFiles, folder: Path) -> None:
    from unicodedata import normalize

    for each in files.added:
        if each.normalized and normalize("NFC", each.text) != each.text:
            raise CheckpointError(
                f"{folder}: token {printable(each.text, 40)!r} is normalized and not in NFC; "
                "llama.cpp finds it as it stands"
            )
