"""A suite is data: which tasks, which metric of each, how many examples shown, how to run them.

A suite is read from the `eval` part of the parameters. Everything in it is checked here, before a
model is loaded or a file of data is opened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remerge.errors import RecipeError
from remerge.schema import nearest

KINDS = ("skill", "lm_eval")
#: What is reported of a task that names no metric.
_METRICS = {"skill": "exact_match"}
DTYPES = ("float64", "float32", "bfloat16", "float16")
_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*")
_DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class Benchmark:
    """One column of a table of scores.

    kind: `skill`, a file of {"prompt", "answer"} lines answered greedily up to a newline and
        counted by exact match, or `lm_eval`, a task that ships with lm-eval.
    data: the file (skill) or the folder (lm_eval) that holds the data set.
    metric: the metric of the task that is reported; of a skill, exact_match unless it says another.
    definition: the task's YAML inside `lm_eval/tasks`; `{subject}` stands for each of `subjects`.
    splits: name of a split to its file inside `data`; `{subject}` as above.
    subjects: where not empty, the task is run once a subject and the score is the plain mean of
        the subjects, whatever their sizes.
    answer_filter: lm-eval's name of the way the answer is taken from the generated text.
    max_new_tokens: the longest answer of a skill, in tokens.
    """

    name: str
    kind: str
    data: Path
    metric: str
    few_shot: int = 0
    definition: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)
    subjects: tuple[str, ...] = ()
    answer_filter: str = "none"
    max_new_tokens: int = 32


@dataclass(frozen=True)
class Suite:
    """Benchmarks and the way they are run.

    dtype: type in which the forward pass is computed. `float64` makes counted scores the same on
        any machine (see `precision`).
    limit: items of each task that are scored, None for all of them.
    add_bos_token: None leaves it to the model's tokenizer.
    chat_template: put questions as the model's own chat template does.
    fewshot_as_multiturn: with it, put the examples shown as earlier turns of the conversation.
    published: model to {benchmark: percent}, for comparison.
    tolerance: difference in points below which two scores are called the same.
    notes: what has to be known when the scores are compared, printed with them.
    """

    name: str
    benchmarks: tuple[Benchmark, ...]
    batch_size: int = 64
    device: str = "cpu"
    dtype: str = "float64"
    limit: int | None = None
    add_bos_token: bool | None = None
    chat_template: bool = False
    fewshot_as_multiturn: bool = False
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tolerance: float = 0.6
    notes: tuple[str, ...] = ()


def _wrong(where: str, problem: str) -> RecipeError:
    return RecipeError(f"eval.{where}: {problem}")


def _text(value: object, where: str, pattern: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(where, f"expected text, found {value!r}")
    if pattern and not pattern.fullmatch(value):
        raise _wrong(where, f"{value!r} is not allowed here")
    return value


def _whole(value: object, where: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _wrong(where, f"expected a whole number of at least {least}, found {value!r}")
    return value


def _switch(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, f"expected true or false, found {value!r}")
    return value


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _wrong(where, f"expected a mapping, found {value!r}")
    return value


def _known(values: Mapping[str, Any], allowed: set[str], where: str) -> None:
    for key in values:
        if key not in allowed:
            known = ", ".join(sorted(allowed))
            guess = nearest(key, allowed) or ";"
            raise _wrong(f"{where}{key}", f"no such parameter{guess} the known ones are {known}")


def _inside(value: object, where: str) -> str:
    """A relative path that stays below the folder it is joined to."""
    path = _text(value, where)
    if path.startswith("/") or ".." in path.split("/") or "\\" in path or "\0" in path:
        raise _wrong(where, f"{path!r} leaves the folder it belongs to")
    return path


def _file_of(name: str, kind: object, data: object) -> str | None:
    """Where the items of a skill lie in the folder `eval.data`, unless it says another file."""
    return f"{data}/{name}.jsonl" if kind == "skill" and isinstance(data, str) and data else None


def _benchmark(name: str, values: Mapping[str, Any], suite: Mapping[str, Any]) -> Benchmark:
    where = f"tasks.{name}"
    _text(name, where, _NAME)
    _known(
        values,
        {
            "kind",
            "data",
            "metric",
            "few_shot",
            "definition",
            "splits",
            "subjects",
            "answer_filter",
            "max_new_tokens",
        },
        f"{where}.",
    )
    kind = values.get("kind", "skill")
    if kind not in KINDS:
        raise _wrong(f"{where}.kind", f"expected one of {', '.join(KINDS)}, found {kind!r}")
    splits = _mapping(values.get("splits"), f"{where}.splits")
    subjects = values.get("subjects") or ()
    if not isinstance(subjects, list | tuple):
        raise _wrong(f"{where}.subjects", f"expected a list, found {subjects!r}")
    if len(set(subjects)) != len(subjects):
        raise _wrong(f"{where}.subjects", "the same subject stands there twice")
    benchmark = Benchmark(
        name=name,
        kind=kind,
        data=Path(
            _text(values.get("data", _file_of(name, kind, suite.get("data"))), f"{where}.data")
        ),
        metric=_text(values.get("metric", _METRICS.get(kind)), f"{where}.metric", _NAME),
        few_shot=_whole(values.get("few_shot", 0), f"{where}.few_shot", 0),
        definition=str(values.get("definition") or ""),
        splits={
            _text(split, f"{where}.splits", _NAME): _inside(file, f"{where}.splits.{split}")
            for split, file in splits.items()
        },
        subjects=tuple(_text(s, f"{where}.subjects", _NAME) for s in subjects),
        answer_filter=_text(values.get("answer_filter", "none"), f"{where}.answer_filter", _NAME),
        max_new_tokens=_whole(
            values.get("max_new_tokens", suite.get("max_new_tokens", 32)),
            f"{where}.max_new_tokens",
            1,
        ),
    )
    if kind == "lm_eval":
        _inside(benchmark.definition, f"{where}.definition")
        if not benchmark.splits:
            raise _wrong(f"{where}.splits", "a task of lm-eval needs the files of its data set")
    return benchmark


def _published(values: Mapping[str, Any], names: set[str]) -> dict[str, dict[str, float]]:
    published: dict[str, dict[str, float]] = {}
    for model, scores in values.items():
        where = f"published.{model}"
        for name, percent in _mapping(scores, where).items():
            if name not in names | {"average"}:
                raise _wrong(f"{where}.{name}", "the suite has no such task")
            if isinstance(percent, bool) or not isinstance(percent, int | float):
                raise _wrong(f"{where}.{name}", f"expected a number, found {percent!r}")
            if not 0 <= percent <= 100:
                raise _wrong(f"{where}.{name}", f"{percent!r} is no percentage")
            published.setdefault(model, {})[name] = float(percent)
    return published


def suite_from_params(values: Mapping[str, Any]) -> Suite:
    """Check the `eval` part of the parameters and return it as a Suite.

    `data` is the folder that holds all data of the suite; a task may name a place of its own, and a
    skill lies in `NAME.jsonl` if it names none. `max_new_tokens` is that of skills that give none.
    Raises RecipeError with the place of the first thing that is wrong.
    """
    _known(
        values,
        {
            "suite",
            "tasks",
            "batch_size",
            "device",
            "dtype",
            "limit",
            "add_bos_token",
            "chat_template",
            "fewshot_as_multiturn",
            "published",
            "tolerance",
            "notes",
            "data",
            "max_new_tokens",
        },
        "",
    )
    tasks = _mapping(values.get("tasks"), "tasks")
    if not tasks:
        raise _wrong("tasks", "a suite needs at least one task")
    benchmarks = tuple(
        _benchmark(name, _mapping(task, f"tasks.{name}"), values) for name, task in tasks.items()
    )
    for benchmark in benchmarks:
        if benchmark.name == "average":
            raise _wrong("tasks.average", "this name is taken by the average")
    add_bos_token = values.get("add_bos_token")
    if add_bos_token is not None and not isinstance(add_bos_token, bool):
        raise _wrong("add_bos_token", f"expected true, false or null, found {add_bos_token!r}")
    tolerance = values.get("tolerance", 0.6)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
        raise _wrong("tolerance", f"expected a number, found {tolerance!r}")
    if not math.isfinite(tolerance) or tolerance < 0:
        raise _wrong("tolerance", f"expected a number of points ≥ 0, found {tolerance!r}")
    notes = values.get("notes") or ()
    if not isinstance(notes, list | tuple):
        raise _wrong("notes", f"expected a list, found {notes!r}")
    suite = Suite(
        name=_text(values.get("suite"), "suite", _NAME),
        benchmarks=benchmarks,
        add_bos_token=add_bos_token,
        published=_published(
            _mapping(values.get("published"), "published"), {b.name for b in benchmarks}
        ),
        tolerance=float(tolerance),
        notes=tuple(_text(note, "notes") for note in notes),
    )
    return with_settings(
        suite,
        batch_size=values.get("batch_size"),
        device=values.get("device"),
        dtype=values.get("dtype"),
        limit=values.get("limit"),
        chat_template=values.get("chat_template"),
        fewshot_as_multiturn=values.get("fewshot_as_multiturn"),
    )


def with_settings(
    suite: Suite,
    *,
    batch_size: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    limit: int | None = None,
    chat_template: bool | None = None,
    fewshot_as_multiturn: bool | None = None,
) -> Suite:
    """`suite` with the settings that are not None put in place of its own, checked."""
    if batch_size is not None:
        suite = replace(suite, batch_size=_whole(batch_size, "batch_size", 1))
    if device is not None:
        suite = replace(suite, device=_text(device, "device", _DEVICE))
    if dtype is not None:
        if dtype not in DTYPES:
            raise _wrong("dtype", f"expected one of {', '.join(DTYPES)}, found {dtype!r}")
        suite = replace(suite, dtype=dtype)
    if limit is not None:
        suite = replace(suite, limit=_whole(limit, "limit", 1))
    if chat_template is not None:
        suite = replace(suite, chat_template=_switch(chat_template, "chat_template"))
    if fewshot_as_multiturn is not None:
        asked = _switch(fewshot_as_multiturn, "fewshot_as_multiturn")
        suite = replace(suite, fewshot_as_multiturn=asked)
    if suite.fewshot_as_multiturn and not suite.chat_template:
        raise _wrong("fewshot_as_multiturn", "needs eval.chat_template=true: turns are of a chat")
    return suite
