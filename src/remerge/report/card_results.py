"""Tables of the model card about what was measured: scores, published ones, formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remerge.report.build import Build, Scored
from remerge.report.markdown import Markdown, code, table, text
from remerge.report.numbers import decimal, percent, points, size
from remerge.report.scores import best_donor
from remerge.report.sizes import quality_of, thousandths

_MEASURED = ("perplexity", "divergence", "same token")


@dataclass(frozen=True)
class CardScores:
    """Tables of the models and of the formats in their runtimes; `best` is the best donor."""

    models: Markdown
    best: str
    gained: str
    quants: Markdown | None


@dataclass(frozen=True)
class CardFormats:
    """The table of files; `reference` is the perplexity of the model itself, where it is known."""

    files: Markdown
    reference: str


def scores(build: Build) -> CardScores | None:
    """Models by task; None where nothing was scored."""
    shown = [model for model in build.scored if model.role != "quant"]
    if not shown:
        return None
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
    final, best = next(iter(build.role("final")), None), best_donor(build, "mean")
    known = final is not None and best is not None
    gained = (final.score("mean") or 0.0) - (best.score("mean") or 0.0) if final and best else 0.0
    return CardScores(
        models=table(["model", *map(text, columns)], rows),
        best=best.name if best is not None and known else "",
        gained=points(gained),
        quants=_quants(build, columns),
    )


def _quants(build: Build, columns: list[str]) -> Markdown | None:
    def row(model: Scored) -> list[str]:
        differences = build.against_final(model)
        cells = [points(differences[t]) if t in differences else "" for t in columns]
        return [code(model.name), text(model.result["runtime"]), *cells]

    rows = [row(model) for model in build.role("quant")]
    return table(["format", "run in", *map(text, columns)], rows, 2) if rows else None


def published(build: Build) -> list[tuple[str, Markdown]]:
    """Published against rebuilt scores, a table a model."""
    verdicts = {True: "within", False: "outside"}
    head = ["task", "published", "rebuilt", "difference", f"{build.suite.tolerance:g} point"]
    return [
        (
            model,
            table(
                head,
                [
                    [
                        text(row["task"]),
                        f"{row['published']:.2f}",
                        f"{row['rebuilt']:.2f}",
                        f"{row['difference']:+.2f}",
                        verdicts[row["within"]] if row["comparable"] else "not comparable",
                    ]
                    for row in rows
                ],
            ),
        )
        for model, rows in build.published()
    ]


def formats(build: Build) -> CardFormats | None:
    """The formats with digests, sizes and what was lost; None where none was made."""
    if not build.formats:
        return None
    rows = [
        [
            code(name),
            text(manifest.get("runtime", "")),
            text(manifest.get("class", "")),
            code(manifest.get("sha256", "")),
            size(manifest["size"]),
            f"{manifest['bits_per_weight']:.2f}",
            *_measured(quality_of(manifest)),
        ]
        for name, manifest in build.formats.items()
    ]
    head = ["format", "runs in", "class", "SHA-256", "size", "bits a weight", *_MEASURED]
    references = {
        float(reference)
        for m in build.formats.values()
        if (reference := quality_of(m).get("reference_perplexity")) is not None
    }
    known = decimal(references.pop(), 5) if len(references) == 1 else ""
    return CardFormats(table(head, rows, 4), known)


def _measured(quality: Mapping[str, Any]) -> list[str]:
    divergence, agreement = quality.get("divergence"), quality.get("agreement")
    return [
        decimal(quality["perplexity"], 5) if quality else "",
        "" if divergence is None else thousandths(divergence),
        "" if agreement is None else f"{percent(agreement)} %",
    ]
