"""The whole report: one HTML file that needs no network, no font and no script.

>>> write_text("report/index.html", page(build))
"""

from __future__ import annotations

from dataclasses import dataclass

from remerge.report.answers import answers_of
from remerge.report.build import Build
from remerge.report.experiments import Comparison
from remerge.report.merging import merge_of
from remerge.report.numbers import gain_or_loss, percent, points, size
from remerge.report.origins import rebuild_of, recipe_of
from remerge.report.rendering import render
from remerge.report.scores import IN_ITS_OWN, best_donor, scores_of
from remerge.report.sizes import formats_of, weights_of
from remerge.report.verdict import verdict


@dataclass(frozen=True)
class Tile:
    """A number at the head of the page; `kind` is gain, loss or nothing."""

    value: str
    words: str
    kind: str = ""


def page(build: Build, comparison: Comparison | None = None) -> str:
    """The report as text, with experiments that were kept for it."""
    return render(
        "page.html.j2",
        build=build,
        summary=summary(build),
        verdict=verdict(build),
        tiles=_tiles(build),
        scores=scores_of(build),
        answers=answers_of(build),
        in_its_own=IN_ITS_OWN,
        published=build.published(),
        formats=formats_of(build),
        comparison=comparison,
        pictures=comparison.pictures() if comparison else [],
        merge=merge_of(build),
        recipe=recipe_of(build),
        rebuild=rebuild_of(build),
    )


def summary(build: Build) -> str:
    """What the model is, in a sentence."""
    donors = [donor for _, donor in build.donors()]
    loras = sum(1 for donor in donors if donor["adapter"])
    baked = f", {loras} of them with a LoRA baked in," if loras else ""
    return (
        f"{len(donors)} donors{baked} merged by TIES into two parts, and the parts blended by a "
        "gradient."
    )


def _tiles(build: Build) -> list[Tile]:
    weights, total = weights_of(build.final)
    tiles = []
    final = next(iter(build.role("final")), None)
    if final is not None:
        mean = final.score("mean") or 0.0
        tiles.append(Tile(f"{percent(mean)} %", "mean score"))
        best = best_donor(build, "mean")
        for model, words in (
            (next(iter(build.role("base")), None), "points against the base"),
            (best, f"points against the best donor, {best.name if best else ''}"),
        ):
            if model is not None:
                gained = mean - (model.score("mean") or 0.0)
                tiles.append(Tile(points(gained), words, gain_or_loss(gained)))
    tiles.append(
        Tile(_count(weights), f"weights in {len(build.final['tensors'])} tensors, {size(total)}")
    )
    if build.formats:
        name, smallest = min(build.formats.items(), key=lambda item: item[1]["size"])
        words = f"smallest of {len(build.formats)} formats, {name}"
        tiles.append(Tile(size(smallest["size"]), words))
    kept = "class: the same bytes on every machine" if build.final["class"] == "exact" else "class"
    return [*tiles, Tile(str(build.final["class"]), kept)]


def _count(weights: int) -> str:
    for unit, factor in (("billion", 10**9), ("million", 10**6)):
        if weights >= factor:
            return f"{weights / factor:.2f} {unit}"
    return str(weights)
