"""What transformers does around the pieces of a tokenizer, as far as a ggml file can say it.

>>> read_settings(read_tokenizer_files(folder), ids).space_prefix
True

transformers 5 builds `LlamaTokenizer` and `GemmaTokenizer` from the pieces alone; it takes the
normalizer and pre-tokenizer of `tokenizer.json` only for tokenizers without a class of their own.
BOS and EOS come from the post-processor of `tokenizer.json`, and only without that file from
`add_bos_token` and `add_eos_token`. What a file cannot say is refused.

llama.cpp puts the prefix before every text behind a special token, also before one that begins with
a space, as SentencePiece does; `LlamaTokenizer` of transformers 5 does neither. No key says that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.quantize.core.tokenizer_files import GEMMA, GENERIC, LLAMA, TokenizerFiles

_SPACE = "\u2581"


@dataclass(frozen=True)
class TokenizerSettings:
    """Whether BOS, EOS and a first space are added; `split` keeps spaces at the front of pieces."""

    add_bos: bool
    add_eos: bool
    space_prefix: bool
    split: bool


def read_settings(files: TokenizerFiles, ids: Mapping[str, int]) -> TokenizerSettings:
    """Read how transformers 5 surrounds and prefixes a text that SentencePiece pieces are made of.

    Args:
        files: The files of the tokenizer.
        ids: Text to id of all tokens.

    Returns:
        The settings for a ggml file.

    Raises:
        CheckpointError: The tokenizer does what a ggml file cannot say.
    """
    document, folder = files.document, files.folder
    prefix = split = prepended = False
    if files.kind == LLAMA:
        prefix = files.settings.get("add_prefix_space") is not False
    elif files.kind == GENERIC and document:
        prefix, split, prepended = _prefix(document, folder)
    elif files.kind not in (GENERIC, GEMMA):
        raise CheckpointError(
            f"{folder}: {files.kind} reads byte-level tokens, its files hold SentencePiece pieces"
        )
    if document:
        _check_model(document, folder)
    normal = next((t for t in files.added if t.normalized and prepended), None)
    if normal is not None:
        raise CheckpointError(
            f"{folder}: token {printable(normal.text, 40)!r} is normalized, so transformers finds "
            "it only behind a space; set normalized to false for it"
        )
    return TokenizerSettings(*surroundings(files, ids), prefix, split)


def check_pieces(settings: TokenizerSettings, texts: Collection[str], folder: Path) -> None:
    """Refuse pieces that llama.cpp joins differently; CheckpointError says which."""
    inner = next((text for text in texts if settings.split and _SPACE in text[1:]), None)
    if inner is not None:
        raise CheckpointError(
            f"{folder}: tokenizer.json splits texts at spaces, but token {printable(inner, 40)!r} "
            "has one inside: llama.cpp does not split and would use it"
        )


def steps(value: Any, key: str) -> list[dict[str, Any]]:
    """The members of a sequence of `tokenizer.json`, or its only one."""
    if not isinstance(value, dict):
        return []
    members = value.get(key) if value.get("type") == "Sequence" else [value]
    return [each for each in members if isinstance(each, dict)] if isinstance(members, list) else []


def _prefix(document: dict[str, Any], folder: Path) -> tuple[bool, bool, bool]:
    """Whether a space comes first, texts are split at spaces, the normalizer brings that space."""
    prefix = split = replaced = False
    for step in steps(document.get("normalizer"), "normalizers"):
        if step.get("type") == "Prepend" and step.get("prepend") == _SPACE:
            prefix = True
        elif (
            step.get("type") == "Replace"
            and step.get("pattern") == {"String": " "}
            and step.get("content") == _SPACE
        ):
            replaced = True
        else:
            raise unsayable(folder, "normalizer", step)
    prepended = prefix
    for step in steps(document.get("pre_tokenizer"), "pretokenizers"):
        is_space = step.get("pattern") == {"String": " "}
        if step.get("type") == "Metaspace" and step.get("replacement") == _SPACE:
            default = "always" if step.get("add_prefix_space", True) else "never"
            prefix = prefix or step.get("prepend_scheme", default) != "never"
            split, replaced = step.get("split", True) is not False, True
        elif not (step.get("type") == "Split" and is_space and replaced):
            raise unsayable(folder, "pre_tokenizer", step)
    if not replaced:
        raise CheckpointError(
            f"{folder}: tokenizer.json does not write spaces as {_SPACE}: not a SentencePiece "
            "tokenizer, and only such tokenizers can be written"
        )
    return prefix, split, prepended


def unsayable(folder: Path, place: str, step: dict[str, Any]) -> CheckpointError:
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


def surroundings(files: TokenizerFiles, ids: Mapping[str, int]) -> tuple[bool, bool]:
    """Tell whether transformers puts BOS before a text and EOS behind it.

    Args:
        files: The files of the tokenizer.
        ids: Text to id of all tokens.

    Raises:
        CheckpointError: It puts something else there.
    """
    if not files.document:
        bos, eos = (bool(files.settings.get(f"add_{role}_token", False)) for role in ("bos", "eos"))
        return bos and "bos" in files.roles, eos and "eos" in files.roles
    found = (False, False)
    for step in steps(files.document.get("post_processor"), "processors"):
        if step.get("type") == "ByteLevel":
            continue
        if step.get("type") != "TemplateProcessing":
            raise unsayable(files.folder, "post_processor", step)
        found = _template(step, files, ids)
    return found


def _template(
    step: dict[str, Any], files: TokenizerFiles, ids: Mapping[str, int]
) -> tuple[bool, bool]:
    """What stands before and behind the text: nothing, or BOS and EOS."""
    single, used = step.get("single"), step.get("special_tokens")
    before: list[Any] = []
    behind: list[Any] = []
    side = before
    for item in single if isinstance(single, list) else ():
        if isinstance(item, dict) and "Sequence" in item:
            side = behind
            continue
        token = item.get("SpecialToken") if isinstance(item, dict) else None
        text = token.get("id") if isinstance(token, dict) else None
        entry = used.get(text) if isinstance(used, dict) else None
        numbers = entry.get("ids") if isinstance(entry, dict) else None
        side.append(text if isinstance(text, str) and numbers == [ids.get(text)] else numbers)
    bos, eos = files.roles.get("bos"), files.roles.get("eos")
    if before not in ([], [bos]) or behind not in ([], [eos]):
        shown = printable(f"{before} and {behind}", 80)
        raise CheckpointError(
            f"{files.folder}: tokenizer.json: the post_processor puts {shown} around a text; "
            "llama.cpp can add only the bos_token before and the eos_token behind it"
        )
    return bool(before), bool(behind)
