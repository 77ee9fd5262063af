"""The tokenizer of a merge as mergekit's `tokenizer` and `chat_template` say it.

>>> check_tokens(merge, models, donor, source)
>>> companions = tokenizer_companions(merge, files, source, models, folder)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from remerge.architectures.compatibility import TOKEN_TENSORS
from remerge.errors import CheckpointError, RecipeError, printable
from remerge.files import write_bytes
from remerge.merge.chat_templates import CHAT_TEMPLATES
from remerge.merge.token_alignment import TokenizerChoice, TokenRule
from remerge.recipes.mergekit.references import Reference
from remerge.recipes.merges import Merge
from remerge.schema import nearest, shown
from remerge.shards.artefact import TOKENIZER_FILES, companions_of
from remerge.tensors.checkpoint import Checkpoint
from remerge.tensors.json_files import read_json, write_json
from remerge.vocabulary.chat_template import SETTINGS_FILE, TEMPLATE_FILE, own_template
from remerge.vocabulary.tokenizer import has_tokenizer, token_ids, tokenizer_files

#: Files among those of a tokenizer that belong to images, sound and video.
_NOT_TEXT = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def check_tokens(
    merge: Merge, models: Sequence[Checkpoint], donor: Checkpoint, source: Checkpoint | None
) -> None:
    """Refuse models whose rows stand for other tokens than those of the result's tokenizer.

    Args:
        merge: The document.
        models: The models whose embedding or head takes part.
        donor: The model that gives config and tokenizer.
        source: The model that `tokenizer` names.

    Raises:
        CheckpointError: Names the first token that differs.
    """
    wanted = donor if source is None else source
    for model in models:
        differing = _differing(model, wanted)
        if differing:
            text = differing[0]
            ours, theirs = token_ids(wanted.folder), token_ids(model.folder)
            raise CheckpointError(
                f"{merge.place}: {model.label}: token {printable(text, 40)!r} is number "
                f"{theirs.get(text, 'none')} there and {ours.get(text, 'none')} in {wanted.label} "
                f"({len(differing)} tokens differ); give all one vocabulary (`tokenizer: {{source: "
                "union}` or `base`), or add --by-row to merge row by row all the same, as mergekit "
                "does"
            )


def _differing(model: Checkpoint, wanted: Checkpoint, *, both: bool = False) -> list[str]:
    """Tokens of `wanted` that stand at another row; with `both`, those that only the other has."""
    if not all(has_tokenizer(tokenizer_files(m.folder)) for m in (model, wanted)):
        return []
    ours, theirs = token_ids(wanted.folder), token_ids(model.folder)
    rows = min(
        (i.shape[0] for n, i in model.tensors.items() if n.endswith(TOKEN_TENSORS)), default=0
    )
    differing = [text for text, n in ours.items() if theirs.get(text) != n and n < rows]
    extra = [text for text, n in theirs.items() if text not in ours and n < rows]
    return differing + (extra if both else [])


def one_vocabulary(
    merge: Merge, models: Sequence[Checkpoint], labels: Mapping[Reference, str]
) -> TokenizerChoice | None:
    """Return the vocabulary that the models must be given; None where all have it already.

    Args:
        merge: The document.
        models: The models that are merged; the first gives the config.
        labels: Their names by reference.

    Raises:
        RecipeError: A model that is named is not merged.
    """
    choice = merge.tokenizer
    if choice is None:
        return None
    by_label = {model.label: model for model in models}
    source = choice.source
    label = source if isinstance(source, str) else labels.get(source, "")
    wanted = by_label.get(label, models[0])
    rows = {i.shape[0] for m in models for n, i in m.tensors.items() if n.endswith(TOKEN_TENSORS)}
    same = not any(_differing(model, wanted, both=True) for model in models) and len(rows) == 1
    if isinstance(source, Reference) and label not in by_label:
        if choice.tokens or choice.pad_to_multiple_of:
            raise RecipeError(
                f"{merge.place}: tokenizer: rules for rows need a source that is merged, and "
                f"{source} is not"
            )
        return None  # its tokens are checked against those of the models
    if same and not choice.tokens and not choice.pad_to_multiple_of:
        return None
    tokens = {}
    for text, rule in choice.tokens.items():
        if rule.model is not None and rule.model not in labels:
            raise RecipeError(
                f"{merge.place}: tokenizer: the row of {printable(text, 40)!r} is to come from "
                f"{rule.model}, which is not merged"
            )
        model = None if rule.model is None else labels[rule.model]
        tokens[text] = TokenRule(rule.kind, model, rule.token, rule.force)
    return TokenizerChoice(label, tokens, choice.pad_to_multiple_of)


def tokenizer_companions(
    merge: Merge,
    files: Mapping[str, Path],
    source: Checkpoint | None,
    models: Sequence[Checkpoint],
    folder: Path,
) -> dict[str, Path]:
    """The files beside the weights of the result.

    Args:
        merge: The document.
        files: Those of the model that gives the config.
        source: The model that `tokenizer` names.
        models: All models, for `chat_template: auto`.
        folder: Where new files go.

    Raises:
        RecipeError: A chat template that is neither known nor one.
    """
    found = dict(files)
    if source is not None:
        names = [name for name in TOKENIZER_FILES if name not in _NOT_TEXT]
        found = {name: path for name, path in found.items() if name not in names}
        theirs = companions_of(source.folder)
        found |= {name: theirs[name] for name in names if name in theirs}
    template = _template(merge, models)
    if template is None:
        return found
    place = folder / f"template-{len(list(folder.glob('*'))) if folder.exists() else 0}"
    place.mkdir(parents=True)
    write_bytes(place / TEMPLATE_FILE, template.encode())
    found[TEMPLATE_FILE] = place / TEMPLATE_FILE
    if SETTINGS_FILE in found:
        settings = read_json(found[SETTINGS_FILE])
        if settings.pop("chat_template", None) is not None:
            write_json(place / SETTINGS_FILE, settings)
            found[SETTINGS_FILE] = place / SETTINGS_FILE
    return found


def _template(merge: Merge, models: Sequence[Checkpoint]) -> str | None:
    text = merge.chat_template
    if text is None:
        return None
    if text == "auto":
        templates = [own_template(model.folder) for model in models]
        counted = Counter(t.strip() for t in templates if t and t.strip())
        # Of equally many the first model's: a counter keeps the order in which it met them.
        return counted.most_common(1)[0][0] if counted else None
    if text in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[text]
    if "{" not in text:
        line = merge.document.line(("chat_template",))
        known = ["auto", *CHAT_TEMPLATES]
        raise RecipeError(
            f"{merge.file}:{line}: chat_template is {shown(text)}{nearest(text, known) or ';'} "
            f"expected one of {', '.join(known)}, or a template in Jinja"
        )
    return text
