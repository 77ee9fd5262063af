"""Sections of the report about where the model comes from, and how to build and check it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remerge.report.build import Build, origin
from remerge.report.commands import rebuild_commands
from remerge.report.markup import Markup, element, safe_text, table


def made_section(build: Build) -> Markup:
    """The recipe: a picture of the flow, sources with pins, settings, assumptions, notes."""
    return element(
        "section",
        element("h2", "Recipe"),
        _flow(build),
        element("h3", "Sources"),
        _sources(build),
        element("h3", "Settings"),
        _settings(build),
        *_assumptions(build),
        *_notes(build),
        class_="card",
        id="recipe",
    )


def _flow(build: Build) -> Markup:
    parts = []
    for part, places in build.recipe["parts"].items():
        donors = [donor for p, donor in build.donors() if p == part]
        names = [
            f"{donor['name']}{' + ' + donor['adapter'][0] if donor['adapter'] else ''}"
            for donor in donors
        ]
        if places and names:
            parts.append(_box(part.upper(), f"TIES of {', '.join(names)}"))
    arrow = element("div", "→", class_="arrow", aria_hidden="true")
    gradient = ", ".join(f"{value:g}" for value in build.gradient["values"])
    result = element(
        "div",
        element("b", build.title),
        element("span", f"gradient {gradient}"),
        class_="box main",
    )
    steps = [
        [_box(build.base_source()[0], "base of both parts")],
        parts,
        [result],
        [_box("Formats", ", ".join(["safetensors", *build.formats]))],
    ]
    drawn = [element("div", *boxes, class_="step") for boxes in steps]
    return element("div", *[part for step in drawn for part in (arrow, step)][1:], class_="flow")


def _box(title: str, text: str) -> Markup:
    return element("div", element("b", title), element("span", text), class_="box")


def listed_sources(build: Build) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(role, name, entry) of every source, in the order of the recipe's use."""
    name, entry = build.base_source()
    found = [("base", name, entry)]
    for part, donor in build.donors():
        found.append((f"donor of {part.upper()}", *donor["source"]))
        if donor["adapter"]:
            found.append((f"LoRA on {donor['name']}", *donor["adapter"]))
    return found


def _sources(build: Build) -> Markup:
    rows = []
    for role, name, entry in listed_sources(build):
        files = entry.get("files") or {}
        rows.append(
            element(
                "tr",
                element("th", name, scope="row"),
                element("td", role, class_="text"),
                element("td", element("code", origin(entry)), class_="text wrap"),
                element("td", f"{len(files)} pinned" if files else "none pinned", class_="text"),
                element("td", str(entry.get("licence") or "not known"), class_="text"),
            )
        )
    head = ["source", "role", "from", "files", "licence"]
    return table(head, rows, texts=head)


def _settings(build: Build) -> Markup:
    settings = {
        **{f"ties.{key}": value for key, value in build.ties.items()},
        **{f"gradient.{key}": value for key, value in build.gradient.items()},
        "recipe.dtype": build.recipe["dtype"],
    }
    rows = [
        element(
            "tr", element("th", key, scope="row"), element("td", shown(value), class_="text wrap")
        )
        for key, value in settings.items()
    ]
    return table([], rows)


def shown(value: object) -> str:
    """A parameter's value as YAML writes it, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(entry) for entry in value)}]"
    if isinstance(value, str):
        return value or '""'
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _assumptions(build: Build) -> list[Markup]:
    listed = build.assumptions
    if not listed:
        return []
    return [
        element("h3", "What is assumed"),
        element(
            "p",
            "The author published no value for these; they are this recipe's choice.",
            class_="quiet",
        ),
        element("ul", *(element("li", entry) for entry in listed), class_="plain"),
    ]


def _notes(build: Build) -> list[Markup]:
    lines = [
        f"{part}: {model}, {tensor}: {text}"
        for part, manifest in build.merges.items()
        for model, tensor, text in manifest.get("notes", ())
    ]
    if not lines:
        return []
    return [
        element("h3", "Changed on the way in"),
        element("ul", *(element("li", line) for line in lines[:40]), class_="plain"),
        *([element("p", f"and {len(lines) - 40} more", class_="quiet")] if len(lines) > 40 else []),
    ]


def verify_section(build: Build) -> Markup:
    """Commands, and the inputs by model id."""
    rows = []
    for part, manifest in build.merges.items():
        rows.append((part, manifest["model_id"]))
        rows += [
            (f"{part} reads {label}", identity.get("model_id", ""))
            for label, identity in manifest.get("inputs", {}).items()
            if identity.get("model_id") and label not in build.merges
        ]
    body = [
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", element("code", str(identity)), class_="text wrap"),
        )
        for name, identity in rows
    ]
    return element(
        "section",
        element("h2", "Rebuild and verify"),
        element(
            "p",
            "The build is right when the model id comes out the same: it is a digest of names, "
            "types, shapes and bytes of all tensors, whatever files they lie in.",
        ),
        element("pre", element("code", Markup("\n".join(map(safe_text, rebuild_commands(build)))))),
        table([], body, caption="Model ids"),
        class_="card",
        id="rebuild",
    )
