"""What the merge gained and lost, in words: the first sentences of the report and of the card."""

from __future__ import annotations

from remerge.report.build import Build, Scored
from remerge.report.numbers import percent, points
from remerge.report.scores import best_donor


def verdict(build: Build) -> str:
    """Two sentences: the mean against base and best donor, then the tasks that were won.

    Empty where the result, its base or its donors were not scored.
    """
    final = next(iter(build.role("final")), None)
    base = next(iter(build.role("base")), None)
    best = best_donor(build, "mean")
    if final is None or base is None or best is None:
        return ""
    mean = final.score("mean") or 0.0
    against = " and ".join(
        (
            _difference(mean - (base.score("mean") or 0.0), "its base"),
            _difference(mean - (best.score("mean") or 0.0), f"its best donor, {best.name}"),
        )
    )
    above_base = [task for task in build.tasks if _above(final, base, task)]
    above_all = [
        task
        for task in build.tasks
        if (top := best_donor(build, task)) and _above(final, top, task)
    ]
    count = len(build.tasks)
    return (
        f"{build.title} scores {percent(mean)} % in the mean of {count} tasks: {against}. "
        f"It beats its base at {_some(len(above_base), count)} of them and every donor at "
        f"{_some(len(above_all), count)}."
    )


def _difference(value: float, other: str) -> str:
    shown = points(value)
    if shown == "±0":
        return f"level with {other}"
    return f"{shown[1:]} points {'above' if value > 0 else 'below'} {other}"


def _above(model: Scored, other: Scored, task: str) -> bool:
    return (model.score(task) or 0.0) > (other.score(task) or 0.0)


def _some(number: int, count: int) -> str:
    return {0: "none", count: "all"}.get(number, str(number))
