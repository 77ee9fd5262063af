"""What the report says about where the model comes from, and how to build and check it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remerge.report.build import Build, origin
from remerge.report.commands import rebuild_commands

_MOST_NOTES = 40


@dataclass(frozen=True)
class Box:
    """A step of the picture of the flow; `main` is the result."""

    title: str
    text: str
    main: bool = False


@dataclass(frozen=True)
class Source:
    """A row of the table of sources."""

    name: str
    role: str
    origin: str
    files: str
    license: str


@dataclass(frozen=True)
class Recipe:
    """What `recipe.html.j2` shows."""

    flow: tuple[tuple[Box, ...], ...]
    sources: tuple[Source, ...]
    settings: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    more_notes: int


@dataclass(frozen=True)
class Rebuild:
    """What `rebuild.html.j2` shows; `ids` are (label, model id)."""

    commands: tuple[str, ...]
    ids: tuple[tuple[str, str], ...]


def recipe_of(build: Build) -> Recipe:
    """The recipe: a picture of the flow, sources with pins, settings, notes."""
    settings = {
        **{f"ties.{key}": value for key, value in build.ties.items()},
        **{f"gradient.{key}": value for key, value in build.gradient.items()},
        "recipe.dtype": build.recipe["dtype"],
    }
    notes = [
        f"{part}: {model}, {tensor}: {text}"
        for part, manifest in build.merges.items()
        for model, tensor, text in manifest.get("notes", ())
    ]
    return Recipe(
        flow=_flow(build),
        sources=tuple(_source(*listed) for listed in listed_sources(build)),
        settings=tuple((key, shown(value)) for key, value in settings.items()),
        notes=tuple(notes[:_MOST_NOTES]),
        more_notes=max(0, len(notes) - _MOST_NOTES),
    )


def _flow(build: Build) -> tuple[tuple[Box, ...], ...]:
    parts = []
    for part in build.recipe["parts"]:
        names = [
            f"{donor['name']}{' + ' + donor['adapter'][0] if donor['adapter'] else ''}"
            for of, donor in build.donors()
            if of == part
        ]
        if names:
            parts.append(Box(part.upper(), f"TIES of {', '.join(names)}"))
    gradient = ", ".join(f"{value:g}" for value in build.gradient["values"])
    return (
        (Box(build.base_source()[0], "base of both parts"),),
        tuple(parts),
        (Box(build.title, f"gradient {gradient}", main=True),),
        (Box("Formats", ", ".join(["safetensors", *build.formats])),),
    )


def _source(role: str, name: str, entry: Mapping[str, Any]) -> Source:
    files = entry.get("files") or {}
    pinned = f"{len(files)} pinned" if files else "none pinned"
    return Source(name, role, origin(entry), pinned, str(entry.get("licence") or "not known"))


def listed_sources(build: Build) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(role, name, entry) of every source, in the order of the recipe's use."""
    name, entry = build.base_source()
    found = [("base", name, entry)]
    for part, donor in build.donors():
        found.append((f"donor of {part.upper()}", *donor["source"]))
        if donor["adapter"]:
            found.append((f"LoRA on {donor['name']}", *donor["adapter"]))
    return found


def shown(value: object) -> str:
    """A parameter's value as YAML writes it, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(entry) for entry in value)}]"
    if isinstance(value, str):
        return value or '""'
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def rebuild_of(build: Build) -> Rebuild:
    """Commands, and the inputs by model id."""
    ids = []
    for part, manifest in build.merges.items():
        ids.append((part, str(manifest["model_id"])))
        ids += [
            (f"{part} reads {label}", str(identity["model_id"]))
            for label, identity in manifest.get("inputs", {}).items()
            if identity.get("model_id") and label not in build.merges
        ]
    return Rebuild(tuple(rebuild_commands(build)), tuple(ids))
