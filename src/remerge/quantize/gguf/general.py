"""The keys of a GGUF file that people see in a list of models, and all tokens that end a text.

The names are those of the GGUF specification (`general.license`, `general.base_model.0.name`, …).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, size_label

from remerge.errors import printable
from remerge.quantize.core.description import Description
from remerge.tensors.json_files import read_json

_HUB = "https://huggingface.co/"
#: The roles that llama.cpp stops at besides `eos`: end of turn, end of message.
_FURTHER_ENDS = ("eot", "eom")


def describe_for_people(writer: GGUFWriter, description: Description, weights: int) -> None:
    """Add license, base models, tags, languages and the size; nothing if nothing is known.

    Args:
        writer: The file.
        description: What is known of the model.
        weights: The number of its weights, which gives the size label (`13B`).
    """
    if description.says_nothing():
        return
    writer.add_size_label(size_label(weights, 0, 0, 0))
    if description.license is not None:
        writer.add_license(description.license)
    if description.license_name is not None:
        writer.add_license_name(description.license_name)
    if description.license_link is not None:
        writer.add_license_link(description.license_link)
    if description.base_model:
        writer.add_base_model_count(len(description.base_model))
    for position, model in enumerate(description.base_model):
        owner, _, name = model.rpartition("/")
        writer.add_base_model_name(position, name)
        if owner:
            writer.add_base_model_organization(position, owner)
            writer.add_base_model_repo_url(position, f"{_HUB}{model}")
    if description.tags:
        writer.add_tags(description.tags)
    if description.language:
        writer.add_languages(description.language)


def further_ends(
    folder: Path, texts: Sequence[str], eos: int
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Find the tokens besides `eos` that end a text, as the model's configuration lists them.

    Args:
        folder: A model's folder; `generation_config.json` goes before `config.json`.
        texts: The texts of all tokens.
        eos: The token that the file names as `eos`.

    Returns:
        Role (`eot`, `eom`) to token, and a note for each token that has no place in the file.
    """
    listed: list[Any] = []
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ends = read_json(path).get("eos_token_id") if path.is_file() else None
        if ends is not None:
            listed = ends if isinstance(ends, list) else [ends]
            break
    found = [token for token in dict.fromkeys(t for t in listed if type(t) is int) if token != eos]
    roles: dict[str, int] = {}
    notes = []
    for token in found:
        if not 0 <= token < len(texts):
            notes.append(f"token {token} ends a text but has no row in the embedding: left out")
        elif len(roles) < len(_FURTHER_ENDS):
            roles[_FURTHER_ENDS[len(roles)]] = token
        else:
            notes.append(
                f"token {token} ({printable(texts[token], 40)}) ends a text too, but GGUF has "
                "places for three: a runtime stops at it only if it knows its text"
            )
    return roles, tuple(notes)
