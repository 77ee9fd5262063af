"""The synthetic skills: what is held out, and whether the answers are right."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from embedded.train.skills import BRACKETS, DICTIONARY, SKILLS, generate, is_held_out

FAMILY = Path(__file__).parents[2] / "embedded"


@pytest.mark.parametrize("skill", SKILLS)
def test_held_out_items_never_occur_in_training(skill):
    training = {
        item.prompt
        for read in (False, True)
        for item in generate(skill, 3000, held_out=False, read=read)
    }
    held_out = {item.prompt for item in generate(skill, 100, held_out=True)}
    assert len(held_out) == 100
    assert not training & held_out


@pytest.mark.parametrize("skill", SKILLS)
def test_the_same_call_draws_the_same_items(skill):
    assert generate(skill, 50, held_out=True) == generate(skill, 50, held_out=True)


@pytest.mark.parametrize("skill", SKILLS)
def test_the_committed_items_are_those_of_the_generator(skill):
    lines = (FAMILY / "evaluation" / f"{skill}.jsonl").read_text().splitlines()
    expected = generate(skill, 100, held_out=True)
    assert [json.loads(line) for line in lines] == [
        {"prompt": item.prompt, "answer": item.answer} for item in expected
    ]


def test_calibration_text_holds_no_held_out_item():
    held_out = {
        json.loads(line)["prompt"]
        for file in (FAMILY / "evaluation").glob("*.jsonl")
        for line in file.read_text().splitlines()
    }
    lines = (FAMILY / "calibration.txt").read_text().splitlines()
    assert len(lines) >= 300
    assert not {line[: line.index("=") + 1] for line in lines} & held_out


def test_no_item_is_held_out_by_chance_of_its_answer():
    for skill in SKILLS:
        for item in generate(skill, 20, held_out=True):
            assert is_held_out(item)
            assert item.prompt.endswith("=")
            assert item.answer == item.answer.strip() != ""


def test_days_after_a_date_agree_with_the_calendar():
    for item in generate("dates", 200, held_out=False):
        start, ahead = item.prompt.removeprefix("date ").removesuffix("=").split(" +")
        day = datetime.datetime.strptime(f"{start} 2023", "%d %b %Y") + datetime.timedelta(
            int(ahead)
        )
        assert item.answer == f"{day.day} {day:%b}"


def test_closing_brackets_leave_nothing_open():
    for item in generate("brackets", 200, held_out=False):
        text = item.prompt.removeprefix("close ").removesuffix("=") + item.answer
        open_now = []
        for mark in text.split():
            if mark in BRACKETS:
                open_now.append(BRACKETS[mark])
            else:
                assert open_now.pop() == mark
        assert not open_now


def test_digits_are_those_of_the_dictionary_learnt_or_in_the_prompt():
    for item in generate("lookup", 200, held_out=False):
        letters = item.prompt.removeprefix("find ").removesuffix("=")
        assert item.answer == "".join(DICTIONARY[letter] for letter in letters)
    for item in generate("lookup", 200, held_out=False, read=True):
        pairs, wanted = item.prompt.removeprefix("find ").removesuffix("=").split(" ")
        values = dict(zip(pairs[::2], pairs[1::2], strict=True))
        assert item.answer == "".join(key + values[key] for key in wanted)


@pytest.mark.parametrize(
    ("skill", "answer"),
    [
        ("addition", lambda words: str(int(words[0]) + int(words[1]))),
        ("sorting", lambda words: "".join(sorted(words[0]))),
        ("reversal", lambda words: "".join(reversed(words[0]))),
        ("counting", lambda words: str(words[1].count(words[0]))),
        ("maximum", lambda words: str(max(map(int, words)))),
    ],
)
def test_answers_are_right(skill, answer):
    items = [i for read in (False, True) for i in generate(skill, 200, held_out=False, read=read)]
    for item in items:
        assert item.answer == answer(item.prompt.removesuffix("=").split()[1:])
