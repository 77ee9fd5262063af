"""What transformers does around the pieces of a tokenizer, as far as a ggml file can say it.

>>> read_settings(folder, {"bos": "<s>", "eos": "</s>"}).space_prefix
True

transformers 5 builds `LlamaTokenizer` from the pieces and `add_prefix_space` alone; it takes the
normalizer and pre-tokenizer of `tokenizer.json` only for tokenizers without a class of their own.
BOS and EOS come from `add_bos_token` and `add_eos_token` if `tokenizer_config.json` has either,
otherwise from the post-processor of `tokenizer.json`. What a file cannot say is refused.

llama.cpp puts the prefix before every text behind a special token, also before one that begins with
a space, as SentencePiece does; `LlamaTokenizer` of transformers 5 does neither. No key says that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.tensors.json_files import read_json

_SPACE = "\u2581"
#: Classes that read `tokenizer.json` as it stands.
_GENERIC = (None, "PreTrainedTokenizer", "TokenizersBackend")


@dataclass(frozen=True)
class TokenizerSettings:
    """Whether BOS, EOS and a first space are added; `split` keeps spaces at the front of pieces."""

    add_bos: bool
    add_eos: bool
    space_prefix: bool
    split: bool


def read_settings(folder: Path, named: Mapping[str, str]) -> TokenizerSettings:
    """Read how transformers 5 surrounds and prefixes a text.

    Args:
        folder: A model's folder.
        named: Role (``bos``, ``eos``) to text of the special tokens that the tokenizer names.

    Returns:
        The settings for a ggml file.

    Raises:
        CheckpointError: The tokenizer does what a ggml file cannot say.
    """
    settings = _optional(folder / "tokenizer_config.json")
    document = _optional(folder / "tokenizer.json")
    kind = settings.get("tokenizer_class")
    kind = kind.removesuffix("Fast") if isinstance(kind, str) else None
    if kind == "LlamaTokenizer":
        prefix, split = settings.get("add_prefix_space") is not False, False
    elif kind in _GENERIC:
        prefix, split = _prefix(document, folder) if document else (False, False)
    else:
        raise CheckpointError(
            f"{folder}: tokenizer_config.json: tokenizer_class {printable(kind, 40)!r} cannot be "
            "written; LlamaTokenizer and PreTrainedTokenizerFast can"
        )
    if document:
        _check_model(document, folder)
    bos, eos = _surroundings(settings, document, named, folder)
    return TokenizerSettings(bos, eos, prefix, split)


def check_pieces(settings: TokenizerSettings, texts: Collection[str], folder: Path) -> None:
    """Refuse pieces that llama.cpp joins differently; CheckpointError says which."""
    inner = next((text for text in texts if settings.split and _SPACE in text[1:]), None)
    if inner is not None:
        raise CheckpointError(
            f"{folder}: tokenizer.json splits texts at spaces, but token {printable(inner, 40)!r} "
            "has one inside: llama.cpp does not split and would use it"
        )


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _steps(value: Any, key: str) -> list[dict[str, Any]]:
    """The members of a sequence of `tokenizer.json`, or its only one."""
    if not isinstance(value, dict):
        return []
    members = value.get(key) if value.get("type") == "Sequence" else [value]
    return [each for each in members if isinstance(each, dict)] if isinstance(members, list) else []


def _prefix(document: dict[str, Any], folder: Path) -> tuple[bool, bool]:
    """Whether a space comes first, and whether texts are split at spaces."""
    prefix = split = replaced = False
    for step in _steps(document.get("normalizer"), "normalizers"):
        if step.get("type") == "Prepend" and step.get("prepend") == _SPACE:
            prefix = True
        elif (
            step.get("type") == "Replace"
            and step.get("pattern") == {"String": " "}
            and step.get("content") == _SPACE
        ):
            replaced = True
        else:
            raise _unsayable(folder, "normalizer", step)
    for step in _steps(document.get("pre_tokenizer"), "pretokenizers"):
        is_space = step.get("pattern") == {"String": " "}
        if step.get("type") == "Metaspace" and step.get("replacement") == _SPACE:
            default = "always" if step.get("add_prefix_space", True) else "never"
            prefix = prefix or step.get("prepend_scheme", default) != "never"
            split, replaced = step.get("split", True) is not False, True
        elif not (step.get("type") == "Split" and is_space and replaced):
            raise _unsayable(folder, "pre_tokenizer", step)
    if not replaced:
        raise CheckpointError(
            f"{folder}: tokenizer.json does not write spaces as {_SPACE}: not a SentencePiece "
            "tokenizer, and only such tokenizers can be written"
        )
    return prefix, split


def _unsayable(folder: Path, place: str, step: dict[str, Any]) -> CheckpointError:
    return CheckpointError(
        f"{folder}: tokenizer.json: llama.cpp has nothing like the {place} "
        f"{printable(step.get('type'), 40)!r} as it is set here; its tokens would be others"
    )


def _check_model(document: dict[str, Any], folder: Path) -> None:
    model = document.get("model")
    model = model if isinstance(model, dict) else {}
    if model.get("type", "BPE") != "BPE":
        raise CheckpointError(
            f"{folder}: tokenizer.json: model {printable(model.get('type'), 40)!r} cannot be "
            "written; only BPE can"
        )
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(key):
            raise CheckpointError(
                f"{folder}: tokenizer.json: llama.cpp has no {key}; its tokens would be others"
            )


def _surroundings(
    settings: dict[str, Any], document: dict[str, Any], named: Mapping[str, str], folder: Path
) -> tuple[bool, bool]:
    """Whether BOS and EOS are added."""
    explicit = "add_bos_token" in settings or "add_eos_token" in settings
    processor = document.get("post_processor")
    if explicit or processor is None:
        bos, eos = (bool(settings.get(f"add_{role}_token", False)) for role in ("bos", "eos"))
        return bos and "bos" in named, eos and "eos" in named
    found = (False, False)
    for step in _steps(processor, "processors"):
        if step.get("type") == "ByteLevel":
            continue
        if step.get("type") != "TemplateProcessing":
            raise _unsayable(folder, "post_processor", step)
        found = _template(step, named, folder)
    return found


def _template(step: dict[str, Any], named: Mapping[str, str], folder: Path) -> tuple[bool, bool]:
    """What stands before and behind the text: nothing, or BOS and EOS."""
    single = step.get("single")
    before: list[Any] = []
    behind: list[Any] = []
    side = before
    for item in single if isinstance(single, list) else ():
        if isinstance(item, dict) and "Sequence" in item:
            side = behind
        else:
            token = item.get("SpecialToken") if isinstance(item, dict) else None
            side.append(token.get("id") if isinstance(token, dict) else None)
    if before not in ([], [named.get("bos")]) or behind not in ([], [named.get("eos")]):
        shown = printable(f"{before} and {behind}", 80)
        raise CheckpointError(
            f"{folder}: tokenizer.json: the post_processor puts {shown} around a text; llama.cpp "
            "can add only the bos_token before and the eos_token behind it"
        )
    return bool(before), bool(behind)
