"""The whole report: one HTML file that needs no network, no font and no script.

>>> write_text("report/index.html", page(build))
"""

from __future__ import annotations

from remerge.errors import printable
from remerge.report.build import Build
from remerge.report.markup import Markup, element, percent, points, safe_text, size
from remerge.report.merging import merging_section
from remerge.report.origins import made_section, verify_section
from remerge.report.scores import best_donor, gain_or_loss, published_section, scores_section
from remerge.report.sizes import formats_section, weights_of
from remerge.report.style import stylesheet

_NOTHING_FROM_OUTSIDE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(build: Build) -> str:
    """The report as text."""
    sections = {
        "Scores": scores_section(build),
        "Published": published_section(build),
        "Formats": formats_section(build),
        "Merge": merging_section(build),
        "Recipe": made_section(build),
        "Rebuild": verify_section(build),
    }
    present = {title: section for title, section in sections.items() if section is not None}
    return document(
        f"{build.title}: build report",
        _top(build, list(present)),
        element("main", *present.values()),
        element("footer", element("p", "Made by remerge from the manifests of the build.")),
    )


def document(title: str, *content: Markup) -> str:
    """A page that carries its own style and asks nothing of the network."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Markup(
            '<meta http-equiv="Content-Security-Policy" content="'
            f'{safe_text(_NOTHING_FROM_OUTSIDE)}">'
        ),
        element("title", title),
        element("style", Markup(stylesheet())),
    )
    body = element("body", *content)
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def summary(build: Build) -> str:
    """What the model is, in a sentence."""
    donors = [donor for _, donor in build.donors()]
    loras = sum(1 for donor in donors if donor["adapter"])
    baked = f", {loras} of them with a LoRA baked in," if loras else ""
    return (
        f"{len(donors)} donors{baked} merged by TIES into two parts, and the parts blended by a "
        "gradient."
    )


def _top(build: Build, sections: list[str]) -> Markup:
    anchors = {
        "Published": "published",
        "Scores": "scores",
        "Formats": "formats",
        "Merge": "merge",
        "Recipe": "recipe",
        "Rebuild": "rebuild",
    }
    links = [element("li", element("a", s, href=f"#{anchors[s]}")) for s in sections]
    return element(
        "header",
        element("p", "Build report", class_="eyebrow"),
        element("h1", build.title),
        element("p", summary(build), class_="lead"),
        _tiles(build),
        element(
            "p",
            element("b", "Model id: one SHA-256 over all weights"),
            element("code", printable(build.final["model_id"])),
            class_="id",
        ),
        element("nav", element("ul", *links), aria_label="Sections"),
        class_="top",
    )


def _tile(value: str, words: str | Markup, kind: str | None = None) -> Markup:
    return element("div", element("b", value, class_=kind), element("span", words), class_="tile")


def _tiles(build: Build) -> Markup:
    weights, total = weights_of(build.final)
    tiles = []
    final = next(iter(build.role("final")), None)
    if final is not None:
        mean = final.score("mean") or 0.0
        tiles.append(_tile(f"{percent(mean)} %", "mean score"))
        best = best_donor(build, "mean")
        for model, words in (
            (next(iter(build.role("base")), None), "points against the base"),
            (best, f"points against the best donor, {best.name if best else ''}"),
        ):
            if model is not None:
                gained = mean - (model.score("mean") or 0.0)
                tiles.append(_tile(points(gained), words, gain_or_loss(gained)))
    tiles.append(
        _tile(_count(weights), f"weights in {len(build.final['tensors'])} tensors, {size(total)}")
    )
    if build.formats:
        name, smallest = min(build.formats.items(), key=lambda item: item[1]["size"])
        words = f"smallest of {len(build.formats)} formats, {name}"
        tiles.append(_tile(size(smallest["size"]), words))
    kept = "class: the same bytes on every machine" if build.final["class"] == "exact" else "class"
    tiles.append(_tile(str(build.final["class"]), kept))
    return element("div", *tiles, class_="tiles")


def _count(weights: int) -> str:
    for unit, factor in (("billion", 10**9), ("million", 10**6)):
        if weights >= factor:
            return f"{weights / factor:.2f} {unit}"
    return str(weights)
