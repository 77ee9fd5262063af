"""The sections of the model card that tell what was measured: scores, published ones, formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from remerge.report.build import Build, Scored
from remerge.report.markdown import code, table, text
from remerge.report.markup import decimal, percent, points, size
from remerge.report.scores import IN_ITS_OWN, best_donor
from remerge.report.sizes import quality_of, thousandths

_MEASURED = ("perplexity", "divergence", "same token")


def scores(build: Build) -> list[str]:
    """Models by task, what has to be known about it, and formats in their own runtimes."""
    shown = [model for model in build.scored if model.role != "quant"]
    if not shown:
        return []
    columns = [*build.tasks, "mean"]
    rows = []
    for model in shown:
        values = [model.score(task) for task in columns]
        name = text(build.title if model.role == "final" else model.name)
        rows.append(
            [
                f"**{name}**" if model.role == "final" else name,
                *("" if value is None else percent(value) for value in values),
            ]
        )
    some = "; the first items of each task only, so no number to publish" if build.limited else ""
    told = [
        "## Scores",
        f"Suite {code(build.suite.name)}, percent, computed in {build.suite.dtype}{some}.",
        table(["model", *map(text, columns)], rows),
    ]
    final, best = next(iter(build.role("final")), None), best_donor(build, "mean")
    if final is not None and best is not None:
        gained = points((final.score("mean") or 0.0) - (best.score("mean") or 0.0))
        told.append(f"In the mean {gained} points against the best donor, {text(best.name)}.")
    if build.notes:
        told.append("\n".join(f"- {text(note)}" for note in build.notes))
    return [*told, *_quants(build, columns)]


def _quants(build: Build, columns: Sequence[str]) -> list[str]:
    def row(model: Scored) -> list[str]:
        differences = build.against_final(model)
        cells = [points(differences[t]) if t in differences else "" for t in columns]
        return [code(model.name), text(model.result["runtime"]), *cells]

    quants = build.role("quant")
    if not quants:
        return []
    return [
        "### Formats against the result",
        IN_ITS_OWN,
        table(["format", "run in", *map(text, columns)], [row(model) for model in quants], 2),
    ]


def published(build: Build) -> list[str]:
    """Published against rebuilt scores, a table a model."""
    told = []
    verdicts = {True: "within", False: "outside"}
    for model, rows in build.published():
        body = [
            [
                text(row["task"]),
                f"{row['published']:.2f}",
                f"{row['rebuilt']:.2f}",
                f"{row['difference']:+.2f}",
                verdicts[row["within"]] if row["comparable"] else "not comparable",
            ]
            for row in rows
        ]
        head = ["task", "published", "rebuilt", "difference", f"{build.suite.tolerance:g} point"]
        told += [f"### {text(model)}: published against rebuilt", table(head, body)]
    return told


def formats(build: Build) -> list[str]:
    """The formats with digests, sizes and what was lost."""
    if not build.formats:
        return []
    rows = []
    for name, manifest in build.formats.items():
        quality = quality_of(manifest)
        rows.append(
            [
                code(name),
                text(manifest.get("runtime", "")),
                text(manifest.get("class", "")),
                code(manifest.get("sha256", "")),
                size(manifest["size"]),
                f"{manifest['bits_per_weight']:.2f}",
                *_measured(quality),
            ]
        )
    head = ["format", "runs in", "class", "SHA-256", "size", "bits a weight", *_MEASURED]
    told = ["## Formats", table(head, rows, 4)]
    references = {
        float(reference)
        for m in build.formats.values()
        if (reference := quality_of(m).get("reference_perplexity")) is not None
    }
    if len(references) == 1:
        told.append(
            f"Perplexity of the unquantised model: {decimal(references.pop(), 5)}. Divergence is "
            "Kullback-Leibler from its distribution of the next token, in thousandths of a nat; "
            "same token: how often both would say the same next."
        )
    return told


def _measured(quality: Mapping[str, Any]) -> list[str]:
    divergence, agreement = quality.get("divergence"), quality.get("agreement")
    return [
        decimal(quality["perplexity"], 5) if quality else "",
        "" if divergence is None else thousandths(divergence),
        "" if agreement is None else f"{percent(agreement)} %",
    ]
