"""A merge whose models get one vocabulary: the models, and the files and settings of the result.

>>> shared = with_one_vocabulary(models, TokenizerChoice("union"), folder)
>>> build(plan, out, companions=shared.companions, config_changes=shared.config_changes, …)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.architectures.alignment import align_heads
from remerge.architectures.compatibility import Note
from remerge.errors import RecipeError, printable
from remerge.files import write_bytes
from remerge.merge.chat_templates import CHAT_TEMPLATES
from remerge.merge.token_alignment import AlignedVocabularies, TokenizerChoice, align_vocabularies
from remerge.schema import nearest
from remerge.shards.artefact import PROCESSOR_FILES, TOKENIZER_FILES, companions_of
from remerge.tensors.checkpoint import Checkpoint, config_of
from remerge.tensors.json_files import read_json, write_json
from remerge.vocabulary.chat_template import SETTINGS_FILE, TEMPLATE_FILE, own_template

#: Settings that number tokens: they go with the tokenizer.
_NUMBERS = ("bos_token_id", "eos_token_id", "pad_token_id")
_GENERATION = "generation_config.json"


@dataclass(frozen=True)
class OneVocabulary:
    """Models with the same tokens, and what becomes of the result's other files.

    Attributes:
        models: The models, in the order given; all store a head, or none.
        companions: Files of config and tokenizer by name.
        config_changes: Entries of config.json to set.
        notes: Lines of the manifest.
        digest: SHA-256 of which row went where.
    """

    models: list[Checkpoint]
    companions: dict[str, Path]
    config_changes: dict[str, Any]
    notes: tuple[Note, ...]
    digest: str


def with_one_vocabulary(
    models: Sequence[Checkpoint], choice: TokenizerChoice, folder: Path
) -> OneVocabulary:
    """Give the models of a merge one vocabulary.

    Args:
        models: The models; the first gives the config.
        choice: Whose vocabulary, and rules for tokens.
        folder: Where new files go; it must live until the merge is done.

    Raises:
        CheckpointError, RecipeError: The vocabularies cannot be brought together.
    """
    heads = align_heads(models)
    aligned = align_vocabularies(heads.models, choice, folder)
    base = models[0]
    files = companions_of(base.folder)
    if aligned.source.label != base.label:
        names = [name for name in TOKENIZER_FILES if name not in PROCESSOR_FILES]
        theirs = companions_of(aligned.source.folder)
        files = {n: p for n, p in files.items() if n not in names and n != _GENERATION}
        files |= {n: theirs[n] for n in (*names, _GENERATION) if n in theirs}
    return OneVocabulary(
        models=aligned.models,
        companions=files | aligned.files,
        config_changes=_changes(base, aligned),
        notes=(*heads.notes, *aligned.notes),
        digest=aligned.digest,
    )


def _changes(base: Checkpoint, aligned: AlignedVocabularies) -> dict[str, Any]:
    """The entries of config.json that say the rows and, with another tokenizer, its tokens."""
    config = config_of(base.folder)
    numbers = {}
    if aligned.source.label != base.label:
        theirs = config_of(aligned.source.folder)
        numbers = {key: theirs[key] for key in _NUMBERS if key in theirs}
    changes: dict[str, Any] = {}
    for name, part in config.items():
        if isinstance(part, Mapping) and "vocab_size" in part:
            changes[name] = {**part, "vocab_size": aligned.rows}
    if "vocab_size" in config or not changes:
        changes["vocab_size"] = aligned.rows
    return changes | numbers


def with_chat_template(
    companions: Mapping[str, Path], choice: str, models: Sequence[Checkpoint], folder: Path
) -> dict[str, Path]:
    """Give the files of a result another chat template.

    Args:
        companions: The files, by name.
        choice: `base` for that of the first model, the label of a model, or a known name.
        models: The models of the merge.
        folder: Where new files go.

    Raises:
        RecipeError: The name is not known, or the model has no template.
    """
    by_label = {"base": models[0], **{model.label: model for model in models}}
    text = CHAT_TEMPLATES.get(choice)
    if choice in by_label:
        text = own_template(by_label[choice].folder)
        if text is None:
            raise RecipeError(f"chat_template: {choice} has no chat template")
    if text is None:
        known = [*by_label, *CHAT_TEMPLATES]
        raise RecipeError(
            f"chat_template is {printable(choice, 60)!r}{nearest(choice, known)}; expected one of "
            f"{', '.join(known)}"
        )
    found, place = dict(companions), folder / "template"
    place.mkdir(parents=True, exist_ok=True)
    write_bytes(place / TEMPLATE_FILE, text.encode())
    found[TEMPLATE_FILE] = place / TEMPLATE_FILE
    if SETTINGS_FILE in found:
        settings = read_json(found[SETTINGS_FILE])
        if settings.pop("chat_template", None) is not None:
            write_json(place / SETTINGS_FILE, settings)
            found[SETTINGS_FILE] = place / SETTINGS_FILE
    return found
