"""Sections of the report about scores: models by task, what the merge kept, published scores."""

from __future__ import annotations

from typing import Any

from remerge.report.build import Build, Scored
from remerge.report.drawing import ranges
from remerge.report.markup import Markup, element, join, percent, points, table
from remerge.report.scale import linear

#: How formats were scored.
IN_ITS_OWN = (
    "Scored in the program that people run each in, which computes in less than float64: points of "
    "percent against the unquantised result."
)
_SCALE = linear(0.0, 1.0)
_GROUPS = (("base", "Base"), ("donor", "Donors"), ("part", "Parts"), ("final", "Result"))


def scores_section(build: Build) -> Markup | None:
    """All models on all tasks; None where nothing was scored."""
    if not build.scored:
        return None
    return element(
        "section",
        element("h2", "Scores"),
        element("p", _how(build), class_="quiet"),
        _kept(build),
        element("h3", "All models"),
        _models(build),
        _subjects(build),
        _quants(build),
        _notes(build),
        class_="card",
        id="scores",
    )


def _how(build: Build) -> str:
    items = [sum(model.result["items"].values()) for model in build.scored]
    suite = build.suite
    limit = "" if suite.limit is None else f", the first {suite.limit} items of each task only"
    return (
        f"Suite {suite.name}: percent, computed in {suite.dtype} over {max(items)} items{limit}. "
        "Outlined: the best of a column."
    )


def _notes(build: Build) -> Markup | None:
    """What has to be known when the scores are read or compared."""
    if not build.notes:
        return None
    listed = [element("li", note) for note in build.notes]
    return join(element("h3", "What has to be known"), element("ul", *listed, class_="plain quiet"))


def best_donor(build: Build, task: str) -> Scored | None:
    """The donor with the highest score, the first of equals."""
    scored = [model for model in build.role("donor") if model.score(task) is not None]
    return max(scored, key=lambda model: model.score(task) or 0.0, default=None)


def _kept(build: Build) -> Markup | None:
    """For each task the base, the best donor and the result: a picture and a table."""
    final = next(iter(build.role("final")), None)
    if final is None or not build.role("donor"):
        return None
    base = next(iter(build.role("base")), None)
    rows, marks = [], []
    for task in [*build.tasks, "mean"]:
        best, reached = best_donor(build, task), final.score(task)
        if best is None or reached is None:
            continue
        top = best.score(task) or 0.0
        start = base.score(task) if base else None
        rows.append(
            element(
                "tr",
                element("th", task, scope="row"),
                element("td", "" if start is None else percent(start)),
                element("td", best.name, class_="text"),
                element("td", percent(top)),
                element("td", element("b", percent(reached))),
                element("td") if start is None else _difference(reached - start),
                _difference(reached - top),
            )
        )
        shown = [("best", best.name, top), ("final", build.title, reached)]
        if base is not None and start is not None:
            shown.insert(0, ("base", base.name, start))
        marks.append((task, shown))
    head = [
        "task",
        "base",
        "best donor",
        "its score",
        "result",
        "against base",
        "against best donor",
    ]
    words = "for each task the scores of the base, the best donor and the result"
    return join(
        element("h3", "What the merge kept and what it lost"),
        element("div", ranges(marks, words), class_="scroll"),
        element(
            "ul",
            element("li", element("i", class_="base"), "base"),
            element("li", element("i", class_="best"), "best donor of the task"),
            element("li", element("i", class_="final"), build.title),
            class_="key",
        ),
        table(head, rows, texts={"best donor"}, caption="Differences in points of percent."),
    )


def gain_or_loss(difference: float) -> str | None:
    """The class of a difference; None where it is shown as none."""
    if points(difference) == "±0":
        return None
    return "gain" if difference > 0 else "loss"


def _difference(value: float) -> Markup:
    return element("td", points(value), class_=gain_or_loss(value))


def _models(build: Build) -> Markup:
    columns = [*build.tasks, "mean"]
    shown = [model for role, _ in _GROUPS for model in build.role(role)]
    tops = {task: max((m.score(task) or 0.0 for m in shown), default=2.0) for task in columns}
    rows = []
    for role, heading in _GROUPS:
        models = build.role(role)
        if models:
            rows.append(
                element("tr", element("th", heading, colspan=len(columns) + 1), class_="group")
            )
        for model in models:
            cells = [_score_cell(model.score(task), tops[task]) for task in columns]
            name = element("th", model.name, _tag(model), scope="row")
            rows.append(element("tr", name, *cells, class_="final" if role == "final" else None))
    return table(["model", *columns], rows, kind="heat")


def _tag(model: Scored) -> Markup | None:
    return element("span", f" {model.part}", class_="quiet") if model.role == "donor" else None


def _score_cell(value: float | None, top: float) -> Markup:
    if value is None:
        return element("td", "–")
    best = " best" if value == top else ""
    return element("td", percent(value), class_=f"{_SCALE.class_of(value)}{best}")


def _subjects(build: Build) -> Markup | None:
    """Scores of the subjects that a task is the mean of, folded away."""
    tables = []
    for task in build.tasks:
        models = [m for m in build.scored if task in m.result.get("subjects", {})]
        if not models:
            continue
        names = sorted({name for m in models for name in m.result["subjects"][task]})
        rows = [
            element(
                "tr",
                element("th", name, scope="row"),
                *(_score_cell(m.result["subjects"][task].get(name), 2.0) for m in models),
            )
            for name in names
        ]
        made = table(["subject", *(model.name for model in models)], rows, kind="heat")
        tables.append(
            element("details", element("summary", f"{task}: {len(names)} subjects"), made)
        )
    return join(*tables) if tables else None


def _quants(build: Build) -> Markup | None:
    """What each format, run in its own program, answers better or worse than the result."""
    quants = build.role("quant")
    if not quants:
        return None
    columns = [*build.tasks, "mean"]
    rows = []
    for model in quants:
        differences = build.against_final(model)
        cells = [
            _difference(differences[task]) if task in differences else element("td")
            for task in columns
        ]
        runtime = str(model.result["runtime"])
        name = element("th", model.name, scope="row")
        rows.append(element("tr", name, element("td", runtime, class_="text"), *cells))
    return join(
        element("h3", "Formats against the result"),
        element(
            "p",
            IN_ITS_OWN,
            class_="quiet",
        ),
        table(["format", "run in", *columns], rows, texts={"run in"}),
    )


def published_section(build: Build) -> Markup | None:
    """Published against rebuilt scores; None where none were published."""
    compared = build.published()
    if not compared:
        return None
    tables = [
        join(element("h3", model), _published_table(rows, build.suite.tolerance))
        for model, rows in compared
    ]
    return element(
        "section",
        element("h2", "Published against rebuilt"),
        element(
            "p",
            f"The same weights scored twice differ by up to {build.suite.tolerance:g} point, so "
            "only a larger difference says anything.",
            class_="quiet",
        ),
        *tables,
        class_="card",
        id="published",
    )


def _published_table(rows: list[dict[str, Any]], tolerance: float) -> Markup:
    body = []
    for row in rows:
        if not row["comparable"]:
            verdict = element("td", "not comparable", class_="text quiet")
        elif row["within"]:
            verdict = element("td", f"within {tolerance:g}", class_="text gain")
        else:
            verdict = element("td", "differs", class_="text loss")
        difference = f"{row['difference']:+.2f}".replace("-", "−")
        body.append(
            element(
                "tr",
                element("th", row["task"], scope="row"),
                element("td", f"{row['published']:.2f}"),
                element("td", f"{row['rebuilt']:.2f}"),
                element("td", difference),
                verdict,
            )
        )
    return table(["task", "published", "rebuilt", "difference", "verdict"], body, texts={"verdict"})
