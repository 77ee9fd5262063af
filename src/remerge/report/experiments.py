"""Experiments side by side: what was changed, what came of it, how large it is.

>>> comparison = compare(json.loads(output of `dvc exp show --json`))
>>> comparison.columns
('experiment', 'changed', 'mean', 'sorting', …, 'size')
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.errors import RecipeError, printable
from remerge.formatting import size
from remerge.recipes.derive import WRITTEN
from remerge.report.drawing import Tradeoff, scatter
from remerge.report.rendering import render
from remerge.schema import Table, nearest, read_table
from remerge.tensors.json_files import read_json

#: Columns of scores beside the mean, so that a table has ten columns at most.
SCORES = 6
_CHANGES = 44


@dataclass(frozen=True)
class Experiment:
    """One row.

    Attributes:
        name: The name of the experiment, `workspace`, or a commit.
        changed: Parameters by dotted key that differ from the commit that is checked out.
        mean: The mean score of the result; None while there is none.
        scores: Its score by task.
        size: Bytes of the format to run it in, or the smallest; None where no format was made.
        state: Why there is no score: `queued`, `running`, `failed`.
    """

    name: str
    changed: Mapping[str, Any]
    mean: float | None
    scores: Mapping[str, float]
    size: int | None
    state: str = ""


@dataclass(frozen=True)
class Comparison:
    """All rows, the scores that are shown, and those that are left out.

    `written` holds the parameters that the changes are changes of.
    """

    experiments: tuple[Experiment, ...]
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    written: Mapping[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return ("experiment", "changed", "mean", *self.tasks, "size")

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield the cells of each row as text."""
        for each in self.experiments:
            yield (
                printable(each.name, 24),
                _shortened(each.changed),
                each.state if each.mean is None else f"{each.mean:.3f}",
                *(_score(each.scores.get(task)) for task in self.tasks),
                "" if each.size is None else size(each.size),
            )

    def pictures(self) -> list[tuple[str, Tradeoff]]:
        """Return the mean against each number that was changed alone, such as a density."""
        made = []
        for key in dict.fromkeys(key for each in self.experiments for key in each.changed):
            points: dict[tuple[float, float], str] = {}
            for each in self.experiments:
                value = each.changed.get(key, self.written.get(key))
                alone = set(each.changed) <= {key}
                if alone and each.mean is not None and _is_number(value):
                    points.setdefault((float(value), each.mean), each.name)
            if len({x for x, _ in points}) > 1:
                made.append((key, scatter(points, key, "mean score")))
        return made


def compare(shown: Sequence[Mapping[str, Any]], tasks: Sequence[str] = ()) -> Comparison:
    """Read the output of `dvc exp show --json`.

    Args:
        shown: The workspace, then commits, each with its experiments.
        tasks: The scores to show; without, those that differ most between the rows.

    Returns:
        The table; the parameters of the first commit are those that others are compared with.

    Raises:
        RecipeError: A task that no experiment was scored on, or too many.
    """
    commits = [entry for entry in shown if entry.get("rev") != "workspace"]
    written = _parameters(commits[0] if commits else {})
    entries = [(str(entry.get("name") or entry.get("rev")), entry) for entry in shown]
    for commit in commits:
        for group in commit.get("experiments") or ():
            state = str((group.get("executor") or {}).get("state") or "")
            entries += [
                (
                    str(group.get("name") or each.get("name") or each.get("rev")),
                    each | {"state": state},
                )
                for each in list(group.get("revs") or ())[:1]
            ]
    rows = [_row(name, entry, written) for name, entry in entries]
    known = list(dict.fromkeys(task for row in rows for task in row.scores))
    for task in tasks:
        if task not in known:
            raise RecipeError(
                f"--scores {printable(task, 40)}: no experiment has it{nearest(task, known)}"
            )
    if len(tasks) > SCORES:
        raise RecipeError(f"--scores: {SCORES} columns at most")
    chosen = list(tasks) or _most_different(rows, known)
    rows = [
        rows[0],
        *sorted(rows[1:], key=lambda row: -1.0 if row.mean is None else row.mean)[::-1],
    ]
    return Comparison(
        tuple(rows), tuple(chosen), tuple(t for t in known if t not in chosen), written
    )


def _row(name: str, entry: Mapping[str, Any], written: Mapping[str, Any]) -> Experiment:
    params = _parameters(entry)
    changed = {
        key: params.get(key)
        for key in dict.fromkeys([*params, *written])
        if params and params.get(key) != written.get(key)
    }
    metrics = _data(entry, "metrics")
    return Experiment(
        name,
        changed,
        (metrics.get("mean") or {}).get("final"),
        dict(metrics.get("final") or {}),
        metrics.get("bytes"),
        str(entry.get("state") or ("failed" if entry.get("error") else "")),
    )


def _data(entry: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The values of all files of one kind."""
    found: dict[str, Any] = {}
    for file in ((entry.get("data") or {}).get(kind) or {}).values():
        found |= file.get("data") or {}
    return found


def _parameters(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a person writes, by dotted key."""
    data = _data(entry, "params")
    return dict(_flat({key: data[key] for key in WRITTEN if key in data}, ""))


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _most_different(rows: Sequence[Experiment], known: Sequence[str]) -> list[str]:
    """The tasks whose scores differ most, in the order of the suite."""

    def spread(task: str) -> float:
        values = [row.scores[task] for row in rows if task in row.scores]
        return max(values) - min(values)

    chosen = sorted(known, key=spread, reverse=True)[:SCORES]
    return [task for task in known if task in chosen]


def comparison_page(comparison: Comparison) -> str:
    """The comparison as a page, with a picture for each number that was changed."""
    return render("experiments.html.j2", comparison=comparison, pictures=comparison.pictures())


class _Row(Table):
    """A finished experiment in a file."""

    name: str
    changed: dict[str, Any]
    mean: float
    scores: dict[str, float]
    size: int | None


class _Kept(Table):
    """Experiments in a file, with the pins of the sources that they were made of."""

    pins: dict[str, str | None]
    written: dict[str, Any]
    tasks: list[str]
    left_out: list[str]
    experiments: list[_Row]


def kept_place(recipe: str) -> Path:
    """Return the file in which the experiments of a recipe are kept for its report."""
    return Path("conf") / "experiments" / f"{recipe}.json"


def to_keep(comparison: Comparison, pins: Mapping[str, Any]) -> dict[str, Any]:
    """Return the finished experiments of a comparison as JSON values.

    Args:
        comparison: The workspace is left out: it is one of the others, or not finished.
        pins: The table `pins` of the parameters.

    Raises:
        RecipeError: No experiment is finished.
    """
    rows = [row for row in comparison.experiments[1:] if row.mean is not None]
    if not any(row.changed for row in rows):
        raise RecipeError("no experiment is finished: nothing to keep")
    keys = {key for row in rows for key in row.changed}
    return {
        "pins": dict(pins),
        "written": {key: value for key, value in comparison.written.items() if key in keys},
        "tasks": list(comparison.tasks),
        "left_out": list(comparison.left_out),
        "experiments": [
            {
                "name": row.name,
                "changed": dict(row.changed),
                "mean": row.mean,
                "scores": dict(row.scores),
                "size": row.size,
            }
            for row in rows
        ],
    }


def read_kept(path: Path, pins: Mapping[str, Any]) -> Comparison | None:
    """Read kept experiments; None where there are none, or those of other sources.

    Raises:
        RecipeError: The file is not as `to_keep` makes it.
    """
    if not path.is_file():
        return None
    kept = read_table(_Kept, read_json(path), str(path))
    if kept.pins != dict(pins):
        return None
    rows = tuple(Experiment(r.name, r.changed, r.mean, r.scores, r.size) for r in kept.experiments)
    return Comparison(rows, tuple(kept.tasks), tuple(kept.left_out), kept.written)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _shortened(changed: Mapping[str, Any]) -> str:
    """Changes as after `-S`, cut where they are long; formats are given by their number."""
    formats = [key for key in changed if key.startswith("recipe.formats.")]
    parts = [
        f"{key.removeprefix('recipe.merges.')}={_value(value)}"
        for key, value in changed.items()
        if key not in formats
    ]
    if formats:
        parts.append(f"{len(formats)} formats")
    text = printable(" ".join(parts), 1000)
    return text if len(text) <= _CHANGES else f"{text[: _CHANGES - 1]}…"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    return "null" if value is None else str(value)
