"""The chat template of a model folder, and the one that a copy of it gets.

>>> chat_template(folder, "alpaca").text == ALPACA_TEMPLATE
True

Three prompts: ``own`` keeps the model's own template, where it has one; ``alpaca`` puts the Alpaca
template in its place; ``raw`` leaves none, for models that continue a text as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from remerge.errors import CheckpointError, RecipeError, printable
from remerge.files import regular_file_size
from remerge.tensors.json_files import read_json
from remerge.vocabulary.prompts import ALPACA_TEMPLATE

#: The file in which transformers keeps a template; it goes before the tokenizer's settings.
TEMPLATE_FILE = "chat_template.jinja"
SETTINGS_FILE = "tokenizer_config.json"
_SIZE_LIMIT = 1_000_000
_GIVEN = {"alpaca": ALPACA_TEMPLATE, "raw": None}


@dataclass(frozen=True)
class ChatTemplate:
    """`text` is None where there is none; `own`: it is the model's; `notes` for the manifest."""

    text: str | None
    own: bool
    notes: tuple[str, ...] = ()


def own_template(folder: Path) -> str | None:
    """The template of a model folder as transformers finds it; CheckpointError if it is no text."""
    file = folder / TEMPLATE_FILE
    if file.exists():
        if regular_file_size(file) > _SIZE_LIMIT:
            raise CheckpointError(f"{file}: larger than {_SIZE_LIMIT} bytes; not a template")
        try:
            return file.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"{file}: not UTF-8 text") from None
    settings = folder / SETTINGS_FILE
    value = read_json(settings).get("chat_template") if settings.exists() else None
    if isinstance(value, list):  # several by name
        entries = [entry for entry in value if isinstance(entry, dict)]
        value = next((e.get("template") for e in entries if e.get("name") == "default"), None)
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{settings}: chat_template is no text")
    return value


def chat_template(folder: Path, prompt: str) -> ChatTemplate:
    """The template that a quantized copy of the model in `folder` gets for a prompt.

    RecipeError for a prompt other than ``own``, ``alpaca`` and ``raw``.
    """
    own = own_template(folder)
    if prompt == "own":
        return ChatTemplate(own, own=True)
    if prompt not in _GIVEN:
        raise RecipeError(f"prompt is {printable(prompt, 40)!r}; expected own, alpaca or raw")
    text = _GIVEN[prompt]
    if own is None or own == text:
        return ChatTemplate(text, own=False)
    became = "left out" if text is None else f"replaced by {prompt}"
    return ChatTemplate(
        text, own=False, notes=(f"the model's own chat template: {became}, as the prompt asks",)
    )
