"""Small data sets of our own in the schemas, splits and file names of the seven public benchmarks.

Run as a script to look at them: `python -m tests.evaluate.fixture_data FOLDER`. Every text is made
from the lists below, so nothing of the real data sets is in here.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

THINGS = "stone river lamp horse cloud bread candle ladder drum basket window garden".split(" ")
TRAITS = "old red quiet heavy round empty warm sharp slow bright soft narrow".split(" ")
PEOPLE = "Ann Bo Cleo Dan Eve Finn Gus Hana".split(" ")

TEXT = pyarrow.string()
TEXTS = pyarrow.list_(TEXT)
DATE = pyarrow.struct({"day": TEXT, "month": TEXT, "year": TEXT})
TARGETS = pyarrow.struct({"choices": TEXTS, "labels": pyarrow.list_(pyarrow.int32())})
SCHEMAS = {
    "arc": {
        "id": TEXT,
        "question": TEXT,
        "choices": pyarrow.struct({"text": TEXTS, "label": TEXTS}),
        "answerKey": TEXT,
    },
    "hellaswag": {
        "ind": pyarrow.int32(),
        "activity_label": TEXT,
        "ctx_a": TEXT,
        "ctx_b": TEXT,
        "ctx": TEXT,
        "endings": TEXTS,
        "source_id": TEXT,
        "split": TEXT,
        "split_type": TEXT,
        "label": TEXT,
    },
    "mmlu": {"question": TEXT, "subject": TEXT, "choices": TEXTS, "answer": pyarrow.int64()},
    "truthfulqa": {"question": TEXT, "mc1_targets": TARGETS, "mc2_targets": TARGETS},
    "winogrande": {"sentence": TEXT, "option1": TEXT, "option2": TEXT, "answer": TEXT},
    "gsm8k": {"question": TEXT, "answer": TEXT},
    "drop": {
        "section_id": TEXT,
        "query_id": TEXT,
        "passage": TEXT,
        "question": TEXT,
        "answer": pyarrow.struct({"number": TEXT, "date": DATE, "spans": TEXTS}),
        "validated_answers": pyarrow.struct(
            {"number": TEXTS, "date": pyarrow.list_(DATE), "spans": pyarrow.list_(TEXTS)}
        ),
    },
}


def phrase(draw: random.Random) -> str:
    """Two or three words."""
    return " ".join([*draw.sample(TRAITS, draw.randint(1, 2)), draw.choice(THINGS)])


def phrases(draw: random.Random, count: int) -> list[str]:
    """`count` phrases, all different."""
    found: list[str] = []
    while len(found) < count:
        if (text := phrase(draw)) not in found:
            found.append(text)
    return found


def arc(draw: random.Random, number: int) -> dict[str, Any]:
    """Three to five choices, labelled by letters or by digits."""
    choices = phrases(draw, draw.randint(3, 5))
    labels = list("ABCDE" if number % 2 else "12345")[: len(choices)]
    return {
        "id": f"item-{number}",
        "question": f"Which of these is the {phrase(draw)} of {draw.choice(PEOPLE)}?",
        "choices": {"text": choices, "label": labels},
        "answerKey": draw.choice(labels),
    }


def hellaswag(draw: random.Random, number: int) -> dict[str, Any]:
    """With the bracketed marks and double spaces that the task's own code removes."""
    person = draw.choice(PEOPLE)
    first = f"[header] {person} lifts the {phrase(draw)}. [title] Look at it."
    second = f"then {person}"
    return {
        "ind": number,
        "activity_label": f"Lifting a {draw.choice(THINGS)}",
        "ctx_a": first,
        "ctx_b": second,
        "ctx": f"{first} {second}",
        "endings": [f"puts the  {text} down. [step] Done." for text in phrases(draw, 4)],
        "source_id": f"made~{number}",
        "split": "val",
        "split_type": "indomain",
        "label": str(draw.randrange(4)),
    }


def mmlu(draw: random.Random, number: int) -> dict[str, Any]:
    """Four choices; the answer is their index."""
    return {
        "question": f" Number {number}: what is a {phrase(draw)}? ",
        "subject": "made",
        "choices": phrases(draw, 4),
        "answer": draw.randrange(4),
    }


def truthfulqa(draw: random.Random, number: int) -> dict[str, Any]:
    """Several true and several false answers; the true ones come first."""
    true, false = draw.randint(1, 3), draw.randint(1, 3)
    choices = [f"It is a {text}." for text in phrases(draw, true + false)]
    one = {"choices": [choices[0], *choices[true:]], "labels": [1] + [0] * false}
    return {
        "question": f"What is thing {number}?",
        "mc1_targets": one,
        "mc2_targets": {"choices": choices, "labels": [1] * true + [0] * false},
    }


def winogrande(draw: random.Random, number: int) -> dict[str, Any]:
    """A sentence with a gap and two people who could fill it."""
    one, two = draw.sample(PEOPLE, 2)
    thing = draw.choice(THINGS)
    return {
        "sentence": f"{one} gave {two} the {thing}, as _ had no {draw.choice(THINGS)} {number}.",
        "option1": one,
        "option2": two,
        "answer": draw.choice("12"),
    }


def gsm8k(draw: random.Random, number: int) -> dict[str, Any]:
    """An answer in steps that ends in `#### ` and a number: 7, 1,007, 14, 7 and so on."""
    final = ("7", "1,007", "14", "7")[number % 4]
    thing = draw.choice(THINGS)
    return {
        "question": f"{draw.choice(PEOPLE)} has {number} of {thing} and finds more. How many?",
        "answer": f"Count {thing} by {thing}.\n#### {final}",
    }


def drop(draw: random.Random, number: int) -> dict[str, Any]:
    """Answers that are a number, spans or a date, in turn, with other readers' answers."""
    nothing = {"day": "", "month": "", "year": ""}
    kinds = (
        {"number": "7", "date": nothing, "spans": []},
        {"number": "", "date": nothing, "spans": ["7", draw.choice(PEOPLE)]},
        {"number": "", "date": {"day": "7", "month": "May", "year": "1907"}, "spans": []},
    )
    answer = kinds[number % 3]
    other = {"number": "12", "date": nothing, "spans": []}
    return {
        "section_id": f"made_{number}",
        "query_id": f"query-{number}",
        "passage": f"{draw.choice(PEOPLE)} saw a {phrase(draw)} and a {phrase(draw)}",
        "question": f"how many were there in part {number}?",
        "answer": answer,
        "validated_answers": {key: [answer[key], other[key]] for key in other},
    }


MAKERS = {
    "arc": arc,
    "hellaswag": hellaswag,
    "mmlu": mmlu,
    "truthfulqa": truthfulqa,
    "winogrande": winogrande,
    "gsm8k": gsm8k,
    "drop": drop,
}
SHOWN_SPLITS = {"train": 30, "dev": 5}
SCORED = 5


def documents(benchmark: str, split: str, subject: str = "") -> list[dict[str, Any]]:
    """The items of one split; subjects of MMLU have one to three scored ones, by their names."""
    draw = random.Random(f"{benchmark}/{split}/{subject}")
    count = SHOWN_SPLITS.get(split, 1 + len(subject) % 3 if subject else SCORED)
    offset = 0 if split in SHOWN_SPLITS else 1000
    return [MAKERS[benchmark](draw, offset + number) for number in range(count)]


def write_benchmark(
    folder: Path, benchmark: str, splits: Mapping[str, str], subjects: Sequence[str] = ()
) -> None:
    """Write the parquet files of a benchmark under the names that its suite expects."""
    for subject in subjects or ("",):
        for split, name in splits.items():
            path = folder / name.replace("{subject}", subject)
            path.parent.mkdir(parents=True, exist_ok=True)
            table = pyarrow.Table.from_pylist(
                documents(benchmark, split, subject), schema=pyarrow.schema(SCHEMAS[benchmark])
            )
            pyarrow.parquet.write_table(table, path)


if __name__ == "__main__":
    from tests.evaluate.leaderboard import leaderboard_params

    for name, task in leaderboard_params()["tasks"].items():
        write_benchmark(Path(sys.argv[1]) / name, name, task["splits"], task.get("subjects") or ())
