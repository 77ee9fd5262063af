"""What transformers 5 builds from the files of a tokenizer, without transformers.

>>> files = read_tokenizer_files(folder)
>>> files.kind, files.roles["eos"]
('LlamaTokenizer', '</s>')

With a `tokenizer.json`, transformers takes the vocabulary, the merges and what stands around a text
from it, and `add_bos_token` and `add_eos_token` of `tokenizer_config.json` count for nothing. Added
tokens come from `added_tokens_decoder` of `tokenizer_config.json`; only without that are
`special_tokens_map.json` and `added_tokens.json` read. A class of its own (`LlamaTokenizer`,
`Qwen2Tokenizer`) brings its normalizer and pre-tokenizer along; every other one takes those of
`tokenizer.json`. Source: `AutoTokenizer` and `TokenizersBackend` of transformers 5.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.tensors.json_files import read_json

#: The kind of a tokenizer that is what its tokenizer.json says.
GENERIC = "TokenizersBackend"
LLAMA, GEMMA, QWEN2, GPT2 = "LlamaTokenizer", "GemmaTokenizer", "Qwen2Tokenizer", "GPT2Tokenizer"
_GENERIC_NAMES = (GENERIC, "PreTrainedTokenizer", "PythonBackend")
#: Class that transformers 5 registers for a model type; llama and smollm3 have none.
_REGISTERED = {
    "gemma2": GEMMA,
    "gemma3": GEMMA,
    "gemma3_text": GEMMA,
    "gpt2": GPT2,
    "granite": GENERIC,
    "mistral": GENERIC,
    "mixtral": GENERIC,
    "olmo2": GENERIC,
    "phi3": GENERIC,
    "qwen2": QWEN2,
    "qwen3": QWEN2,
    "qwen3_moe": QWEN2,
    "starcoder2": GPT2,
}
#: Model types whose registered class is taken whatever tokenizer_config.json says.
_OVERRULED = ("phi3", "qwen2")
#: Special tokens that a class has when its files name none.
_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    LLAMA: {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    GEMMA: {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"},
    QWEN2: {"eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"},
    GPT2: {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"},
}
#: The names under which transformers keeps special tokens, in its order.
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
#: More than any vocabulary has; larger numbers are damage.
_ID_LIMIT = 1 << 31


@dataclass(frozen=True)
class AddedToken:
    """One description of an added token; `token` is the id it is said to have, −1 for none.

    `strips` names those of lstrip, rstrip and single_word that are set.
    """

    text: str
    token: int
    special: bool
    normalized: bool
    strips: tuple[str, ...]


@dataclass(frozen=True)
class TokenizerFiles:
    """`document` is tokenizer.json, empty without one; `roles` maps ``bos``, ``eos``, … to texts.

    `named` are those of `roles` that a file names; the others are the defaults of the class.
    `added` has the descriptions in the order in which transformers adds the tokens: a later one of
    the same text changes its flags.
    """

    folder: Path
    kind: str
    settings: dict[str, Any]
    document: dict[str, Any]
    roles: Mapping[str, str]
    named: Mapping[str, str]
    added: tuple[AddedToken, ...]


def optional_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is no file."""
    return read_json(path) if path.exists() else {}


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read the files of the tokenizer in a model's folder.

    Args:
        folder: A model's folder.

    Returns:
        The files as transformers 5 understands them.

    Raises:
        CheckpointError: A file is damaged, two of them describe one token differently, or the
            tokenizer's class is none of those that are known here.
    """
    settings = optional_json(folder / "tokenizer_config.json")
    document = optional_json(folder / "tokenizer.json")
    kind = _kind(folder, settings)
    decoder = settings.get("added_tokens_decoder")
    if decoder is None:
        settings = {**settings, **optional_json(folder / "special_tokens_map.json")}
    named = {role: _named(settings, role, folder) for role in ROLES if f"{role}_token" in settings}
    # Without tokenizer.json every other class takes the names that SentencePiece gives.
    defaults = _DEFAULTS.get(kind, {} if document else _DEFAULTS[LLAMA])
    roles = {role: text for role, text in {**defaults, **named}.items() if text is not None}
    listed = list(_from_document(document, folder))
    if decoder is None:
        legacy = {each.token: each for each in (*_from_added_json(folder, settings), *listed)}
        added = [legacy[token] for token in sorted(legacy)]
    else:
        added = _from_decoder(decoder, folder)
    _check_agreement([*listed, *added], folder)
    if kind == GENERIC:
        added = [*listed, *added]
    added += _from_roles(settings, roles, folder)
    lost = {each.text for each in listed} - {each.text for each in added}
    if lost:
        raise CheckpointError(
            f"{folder}: tokenizer.json adds {printable(min(lost), 40)!r}, added_tokens_decoder of "
            f"tokenizer_config.json does not, and {kind} takes only that; save the tokenizer anew"
        )
    said = {role: text for role, text in named.items() if text is not None}
    return TokenizerFiles(folder, kind, settings, document, roles, said, tuple(added))


def _kind(folder: Path, settings: Mapping[str, Any]) -> str:
    """The class that transformers chooses, by the model's type and what the files name."""
    config = optional_json(folder / "config.json")
    if isinstance(settings.get("auto_map"), dict) and settings["auto_map"].get("AutoTokenizer"):
        raise CheckpointError(
            f"{folder}: tokenizer_config.json: auto_map names a tokenizer with code of its own, "
            "which cannot be followed; save the tokenizer as tokenizer.json and drop the entry"
        )
    model_type = str(config.get("model_type"))
    registered = _REGISTERED.get(model_type)
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if named is None:
        return registered or GENERIC
    name = str(named).removesuffix("Fast")
    if name in _GENERIC_NAMES:
        name = GENERIC
    if registered and registered != name and (registered == GENERIC or model_type in _OVERRULED):
        return registered
    if name != GENERIC and name not in _DEFAULTS:
        raise CheckpointError(
            f"{folder}: tokenizer_config.json: tokenizer_class {printable(name, 40)!r} cannot be "
            f"written; {', '.join(_DEFAULTS)} and PreTrainedTokenizerFast can"
        )
    return name


def _named(settings: Mapping[str, Any], role: str, folder: Path) -> str | None:
    value = settings[f"{role}_token"]
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and not isinstance(text, str):
        raise CheckpointError(
            f"{folder}: tokenizer_config.json: {role}_token is {printable(value, 40)}; expected "
            "the text of a token or null"
        )
    return text


def _described(entry: Any, token: int, where: str) -> AddedToken:
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        raise CheckpointError(
            f"{where}: the added token {printable(entry, 40)} has no content; save the tokenizer "
            "anew"
        )
    special = bool(entry.get("special"))
    strips = tuple(key for key in ("lstrip", "rstrip", "single_word") if entry.get(key))
    normalized = bool(entry.get("normalized", not special))
    return AddedToken(entry["content"], token, special, normalized, strips)


def _from_document(document: Mapping[str, Any], folder: Path) -> Iterator[AddedToken]:
    path, listed = folder / "tokenizer.json", document.get("added_tokens")
    for entry in listed if isinstance(listed, list) else ():
        token = entry.get("id") if isinstance(entry, dict) else None
        yield _described(entry, _checked_id(token, path), str(path))


def _from_decoder(decoder: Any, folder: Path) -> list[AddedToken]:
    path = folder / "tokenizer_config.json"
    if decoder is not None and not isinstance(decoder, dict):
        raise CheckpointError(f"{path}: added_tokens_decoder is not an object")
    entries = {}
    for key, entry in (decoder or {}).items():
        # Longer numbers are refused before Python reads them, which it does only up to a limit.
        number = int(key) if key.isascii() and key.isdigit() and len(key) < 20 else key
        entries[_checked_id(number, path)] = entry
    return [_described(entries[token], token, str(path)) for token in sorted(entries)]


def _from_added_json(folder: Path, settings: Mapping[str, Any]) -> Iterator[AddedToken]:
    path = folder / "added_tokens.json"
    listed = optional_json(path)
    numbers = {text: _checked_id(token, path) for text, token in listed.items()}
    special = set(_special_texts(settings))
    for text, token in sorted(numbers.items(), key=lambda item: item[1]):
        yield AddedToken(text, token, text in special, text not in special, ())


def _special_texts(settings: Mapping[str, Any]) -> Iterator[str]:
    for value in [settings.get(f"{role}_token") for role in ROLES] + _extra(settings):
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            yield text


def _extra(settings: Mapping[str, Any]) -> list[Any]:
    """Special tokens without a role, and those with one that only this model has."""
    listed = settings.get("extra_special_tokens", settings.get("additional_special_tokens"))
    others = [
        value
        for key, value in settings.items()
        if key.endswith("_token")
        and key.removesuffix("_token") not in ROLES
        and isinstance(value, str | dict)
    ]
    values = listed.values() if isinstance(listed, dict) else listed
    return [*others, *(values if isinstance(listed, list | dict) else ())]


def _from_roles(
    settings: Mapping[str, Any], roles: Mapping[str, str], folder: Path
) -> Iterator[AddedToken]:
    """Special tokens as transformers adds them if no file lists them otherwise."""
    values = [settings.get(f"{role}_token") or text for role, text in roles.items()]
    for value in [*values, *_extra(settings)]:
        if isinstance(value, dict):
            entry = {"normalized": False, **value, "special": True}
            yield _described(entry, -1, f"{folder}: tokenizer_config.json")
        elif isinstance(value, str) and value:
            yield AddedToken(value, -1, True, False, ())


def _checked_id(token: Any, path: Path) -> int:
    if type(token) is not int or not 0 <= token < _ID_LIMIT:
        raise CheckpointError(
            f"{path}: {printable(token, 40)} is no token's number; save the tokenizer anew"
        )
    return token


def _check_agreement(added: list[AddedToken], folder: Path) -> None:
    listed: dict[int, str] = {}
    for each in added:
        if each.token >= 0 and listed.setdefault(each.token, each.text) != each.text:
            raise CheckpointError(
                f"{folder}: tokenizer.json and tokenizer_config.json give token {each.token} "
                "different texts; repair one of them"
            )


def number_added(files: TokenizerFiles, known: Mapping[str, int], rows: int) -> dict[str, int]:
    """Number the added tokens as transformers does; a text of `known` keeps its number.

    Args:
        files: The tokenizer's files.
        known: Text to id of the vocabulary without added tokens.
        rows: Rows of the embedding; what lies beyond is not compared.

    Returns:
        Text to id of every added token.

    Raises:
        CheckpointError: A file gives a token another number than transformers does.
    """
    numbers: dict[str, int] = {}
    following = 0
    for each in files.added:
        if not each.text or each.text in numbers:
            continue
        numbers[each.text] = known.get(each.text, max(following, len(known)))
        following = max(following, numbers[each.text] + 1)
    for each in files.added:
        number = numbers.get(each.text, each.token)
        if 0 <= each.token != number and min(number, each.token) < rows:
            raise CheckpointError(
                f"{files.folder}: the tokenizer's files say that {printable(each.text, 40)!r} is "
                f"token {each.token}, transformers numbers it {number}; save the tokenizer anew"
            )
    return numbers


def check_added(files: TokenizerFiles, numbers: Mapping[str, int], rows: int) -> None:
    """Refuse added tokens that llama.cpp finds in a text where transformers does not, or reverse.

    transformers takes the token that begins first and of those the longest, llama.cpp the longest
    of all, without regard to the spaces beside it.

    Raises:
        CheckpointError: The first such token, by name.
    """
    for each in files.added:
        if each.strips:
            raise CheckpointError(
                f"{files.folder}: llama.cpp has no {each.strips[0]}, which token "
                f"{printable(each.text, 40)!r} asks for; set it to false if spaces beside it do "
                "not matter"
            )
    texts = {text for text, token in numbers.items() if token < rows}
    beginnings: dict[str, list[str]] = {}
    for text in sorted(texts):
        for length in range(1, len(text)):
            beginnings.setdefault(text[:length], []).append(text)
    for first in sorted(texts):
        for cut in range(1, len(first)):
            for second in beginnings.get(first[cut:], ()):
                _check_overlap(files.folder, first[:cut] + second, second, texts)


def _check_overlap(folder: Path, joined: str, second: str, texts: Collection[str]) -> None:
    """Compare which token is found first in `joined`, which ends with the token `second`."""
    ends = range(len(joined), 0, -1)
    leftmost = next(joined[:end] for end in ends if joined[:end] in texts)
    if len(second) >= len(leftmost) and not joined.startswith(second):
        raise CheckpointError(
            f"{folder}: added tokens {printable(leftmost, 40)!r} and {printable(second, 40)!r} "
            f"overlap in {printable(joined, 60)!r}, where llama.cpp takes the longer one and "
            "transformers the first"
        )
