"""What the report says about scores: models by task, what the merge kept, published scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from remerge.report.build import Build, Scored
from remerge.report.drawing import Ranges, ranges
from remerge.report.scale import Scale, linear

#: How formats were scored.
IN_ITS_OWN = (
    "Scored in the program that people run each in, which computes in less than float64: points of "
    "percent against the unquantized result."
)
_SCALE = linear(0.0, 1.0)
_GROUPS = (("base", "Base"), ("donor", "Donors"), ("part", "Parts"), ("final", "Result"))


@dataclass(frozen=True)
class Kept:
    """One task: scores of the base (None where it was not scored), best donor and result."""

    task: str
    base: float | None
    best: str
    top: float
    reached: float


@dataclass(frozen=True)
class Subjects:
    """The subjects that a task is the mean of, and each model's score in them."""

    task: str
    models: tuple[str, ...]
    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


@dataclass(frozen=True)
class Scores:
    """What `scores.html.j2` shows; `quants` are (name, runtime, differences by task)."""

    how: str
    kept: tuple[Kept, ...]
    picture: Ranges
    columns: list[str]
    groups: tuple[tuple[str, Sequence[Scored]], ...]
    tops: Mapping[str, float]
    subjects: tuple[Subjects, ...]
    quants: tuple[tuple[str, str, Mapping[str, float]], ...]
    scale: Scale = _SCALE


def scores_of(build: Build) -> Scores | None:
    """All models on all tasks; None where nothing was scored."""
    if not build.scored:
        return None
    columns = [*build.tasks, "mean"]
    shown = [model for role, _ in _GROUPS for model in build.role(role)]
    kept = _kept(build)
    return Scores(
        how=_how(build),
        kept=kept,
        picture=_picture(build, kept),
        columns=columns,
        groups=tuple((h, models) for role, h in _GROUPS if (models := build.role(role))),
        tops={task: max((m.score(task) or 0.0 for m in shown), default=2.0) for task in columns},
        subjects=_subjects(build),
        quants=tuple(
            (model.name, str(model.result["runtime"]), build.against_final(model))
            for model in build.role("quant")
        ),
    )


def _how(build: Build) -> str:
    items = [sum(model.result["items"].values()) for model in build.scored]
    suite = build.suite
    limit = "" if suite.limit is None else f", the first {suite.limit} items of each task only"
    return (
        f"Suite {suite.name}: percent, computed in {suite.dtype} over {max(items)} items{limit}. "
        "Outlined: the best of a column."
    )


def best_donor(build: Build, task: str) -> Scored | None:
    """The donor with the highest score, the first of equals."""
    scored = [model for model in build.role("donor") if model.score(task) is not None]
    return max(scored, key=lambda model: model.score(task) or 0.0, default=None)


def _kept(build: Build) -> tuple[Kept, ...]:
    final = next(iter(build.role("final")), None)
    if final is None or not build.role("donor"):
        return ()
    base = next(iter(build.role("base")), None)
    rows = []
    for task in [*build.tasks, "mean"]:
        best, reached = best_donor(build, task), final.score(task)
        if best is not None and reached is not None:
            start = base.score(task) if base else None
            rows.append(Kept(task, start, best.name, best.score(task) or 0.0, reached))
    return tuple(rows)


def _picture(build: Build, kept: Sequence[Kept]) -> Ranges:
    base = next((model.name for model in build.role("base")), "")
    marks = []
    for row in kept:
        shown = [("best", row.best, row.top), ("final", build.title, row.reached)]
        if row.base is not None:
            shown.insert(0, ("base", base, row.base))
        marks.append((row.task, shown))
    return ranges(marks, "for each task the scores of the base, the best donor and the result")


def _subjects(build: Build) -> tuple[Subjects, ...]:
    found = []
    for task in build.tasks:
        models = [m for m in build.scored if task in m.result.get("subjects", {})]
        names = sorted({name for m in models for name in m.result["subjects"][task]})
        rows = tuple(
            (name, tuple(m.result["subjects"][task].get(name) for m in models)) for name in names
        )
        if models:
            found.append(Subjects(task, tuple(m.name for m in models), tuple(names), rows))
    return tuple(found)
