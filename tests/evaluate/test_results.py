"""Rounded scores, plain means, and published against rebuilt."""

from __future__ import annotations

from pathlib import Path

import pytest

from remerge.errors import NumericError
from remerge.evaluate import Benchmark, Suite, compare
from remerge.evaluate.results import summarise


def benchmark(name: str, subjects: tuple[str, ...] = ()) -> Benchmark:
    return Benchmark(name, "lm_eval", Path("datasets") / name, "acc", subjects=subjects)


SUITE = Suite(
    "board",
    (benchmark("arc"), benchmark("mmlu", ("law", "logic"))),
    published={"Stheno": {"arc": 61.01, "mmlu": 56.33, "average": 58.67}},
    notes=("mmlu: scored otherwise in 2023",),
)


def test_subjects_count_alike_whatever_their_size() -> None:
    result = summarise(
        SUITE,
        {"arc": 0.5, "mmlu.law": 1.0, "mmlu.logic": 0.0},
        {"arc": 4, "mmlu.law": 1, "mmlu.logic": 99},
    )
    assert result["scores"] == {"arc": 0.5, "mmlu": 0.5}
    assert result["items"] == {"arc": 4, "mmlu": 100}
    assert result["subjects"] == {"mmlu": {"law": 1.0, "logic": 0.0}}


def test_the_average_is_taken_before_rounding() -> None:
    result = summarise(
        SUITE,
        {"arc": 0.00006, "mmlu.law": 0.00016, "mmlu.logic": 0.00016},
        {"arc": 1, "mmlu.law": 1, "mmlu.logic": 1},
    )
    assert result["scores"] == {"arc": 0.0001, "mmlu": 0.0002}
    assert round((0.0001 + 0.0002) / 2, 4) == 0.0002
    assert result["average"] == 0.0001


def test_noise_in_the_last_digits_leaves_the_rounded_score_as_it_is() -> None:
    values = {"arc": 0.3333333333333333, "mmlu.law": 0.25, "mmlu.logic": 0.75}
    noisy = {name: value + 1e-13 for name, value in values.items()}
    counts = dict.fromkeys(values, 3)
    assert summarise(SUITE, values, counts) == summarise(SUITE, noisy, counts)


def test_a_score_that_is_no_number_is_an_error() -> None:
    with pytest.raises(NumericError, match=r"mmlu\.law|mmlu"):
        summarise(
            SUITE,
            {"arc": 0.1, "mmlu.law": float("nan"), "mmlu.logic": 0.5},
            {"arc": 1, "mmlu.law": 1, "mmlu.logic": 1},
        )


def test_published_scores_are_compared_with_the_tolerance_and_their_notes() -> None:
    result = {"scores": {"arc": 0.6060, "mmlu": 0.5700}, "average": 0.5880}
    rows = {row["task"]: row for row in compare(SUITE, "Stheno", result)}
    assert rows["arc"] == {
        "task": "arc",
        "published": 61.01,
        "rebuilt": 60.6,
        "difference": -0.41,
        "within": True,
        "comparable": True,
    }
    assert rows["mmlu"]["within"] is False
    assert rows["mmlu"]["comparable"] is False
    assert rows["average"]["comparable"] is False


def test_the_mean_of_what_can_be_compared_is_compared() -> None:
    suite = Suite(
        "board",
        (benchmark("arc"), benchmark("hellaswag"), benchmark("gsm8k")),
        published={"Stheno": {"arc": 61.0, "hellaswag": 84.0, "gsm8k": 12.0, "average": 52.33}},
        notes=("gsm8k: ended otherwise in 2023",),
    )
    result = {"scores": {"arc": 0.60, "hellaswag": 0.845, "gsm8k": 0.5}, "average": 0.6483}
    *_, average, others = compare(suite, "Stheno", result)
    assert (average["task"], average["comparable"]) == ("average", False)
    assert (others["task"], others["published"], others["rebuilt"], others["comparable"]) == (
        "mean of the 2 others",
        72.5,
        72.25,
        True,
    )


def test_a_score_says_where_it_comes_out_the_same() -> None:
    values = {"arc": 0.5, "mmlu.law": 1.0, "mmlu.logic": 0.0}
    counts = dict.fromkeys(values, 3)
    ours, theirs = summarise(SUITE, values, counts), summarise(SUITE, values, counts, "llama.cpp")
    assert (ours["class"], ours["settings"]["dtype"]) == ("stable", "float64")
    assert (theirs["class"], theirs["settings"]["dtype"]) == ("same-platform", "float32 or less")


def test_a_model_without_published_scores_has_nothing_to_compare() -> None:
    assert compare(SUITE, "Unknown", {"scores": {}, "average": 0}) == []
