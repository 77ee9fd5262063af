"""A suite is checked when it is read: what is wrong is told before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from remerge.errors import RecipeError
from remerge.evaluate import suite_from_params
from remerge.evaluate.suite import with_settings


def params(**changes: Any) -> dict[str, Any]:
    skill = {"kind": "skill", "data": "items/add.jsonl", "metric": "exact_match"}
    return {"suite": "skills", "tasks": {"add": skill}, **changes}


def test_a_suite_is_read_with_its_defaults() -> None:
    suite = suite_from_params(params())
    assert suite.name == "skills"
    assert suite.dtype == "float64"
    assert suite.limit is None
    assert [b.name for b in suite.benchmarks] == ["add"]
    assert suite.benchmarks[0].data == Path("items/add.jsonl")


def test_skill_needs_no_more_than_its_name() -> None:
    values = {"suite": "s", "data": "items", "max_new_tokens": 7}
    tasks = {"add": None, "sub": {"max_new_tokens": 9, "data": "b.jsonl"}}
    add, sub = suite_from_params({**values, "tasks": tasks}).benchmarks
    assert (add.kind, add.metric) == (sub.kind, sub.metric) == ("skill", "exact_match")
    assert (add.data, add.max_new_tokens) == (Path("items/add.jsonl"), 7)
    assert (sub.data, sub.max_new_tokens) == (Path("b.jsonl"), 9)
    with pytest.raises(RecipeError, match=r"eval\.tasks\.add\.data"):
        suite_from_params({"suite": "s", "tasks": {"add": None}})


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"batchsize": 3}, "eval.batchsize"),
        ({"tasks": {}}, "eval.tasks"),
        ({"tasks": {"a b": {}}}, "eval.tasks.a b"),
        ({"tasks": {"add": {"kind": "quiz"}}}, "eval.tasks.add.kind"),
        ({"tasks": {"add": {"kind": "skill", "data": 3}}}, "eval.tasks.add.data"),
        ({"tasks": {"add": {"kind": "skill", "datum": 3}}}, "eval.tasks.add.datum"),
        ({"batch_size": 0}, "eval.batch_size"),
        ({"batch_size": "many"}, "eval.batch_size"),
        ({"batch_size": True}, "eval.batch_size"),
        ({"dtype": "float8"}, "eval.dtype"),
        ({"device": "cpu; rm"}, "eval.device"),
        ({"limit": -1}, "eval.limit"),
        ({"tolerance": float("nan")}, "eval.tolerance"),
        ({"add_bos_token": "yes"}, "eval.add_bos_token"),
        ({"notes": "one"}, "eval.notes"),
        ({"published": {"M": {"sub": 1.0}}}, "eval.published.M.sub"),
        ({"published": {"M": {"add": 101}}}, "eval.published.M.add"),
        ({"suite": ""}, "eval.suite"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(RecipeError, match=place.replace(".", r"\.")):
        suite_from_params(params(**changes))


@pytest.mark.parametrize("path", ["/etc/passwd", "../up.parquet", "a/../../b", "a\\b"])
def test_files_of_a_data_set_stay_in_its_folder(path: str) -> None:
    task = {
        "kind": "lm_eval",
        "data": "datasets/arc",
        "metric": "acc",
        "definition": "arc/arc_challenge.yaml",
        "splits": {"test": path},
    }
    with pytest.raises(RecipeError, match="leaves the folder"):
        suite_from_params(params(tasks={"arc": task}))


def test_settings_of_a_call_take_the_place_of_the_suites_own() -> None:
    suite = with_settings(suite_from_params(params(limit=7)), batch_size=3, dtype="float32")
    assert (suite.batch_size, suite.dtype, suite.limit) == (3, "float32", 7)
    with pytest.raises(RecipeError, match="dtype"):
        with_settings(suite, dtype="int8")
