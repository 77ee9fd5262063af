"""Eight synthetic skills: deterministic generators of short questions with one right answer.

Every item is one line, ``prompt + answer``; the prompt ends with ``=`` and the answer begins
without a space. Five skills have an easier or another form as well: what is read by a model whose
own skill it is not (`READ`). Whether an item is held out is a property of its prompt (a digest),
not of the order in which it was drawn, so the training text and the evaluation can never overlap.
"""

from __future__ import annotations

import calendar
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

HELD_OUT_OF_256 = 32
"""An item is held out when the first byte of its prompt's SHA-256 is below this: one in eight."""

MONTHS = tuple(calendar.month_abbr[1:])
LETTERS = "abcdefghijkl"
DICTIONARY = dict(zip(LETTERS.upper(), "730528146395", strict=True))
BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}


@dataclass(frozen=True)
class Item:
    """One question: ``prompt`` as the model sees it, ``answer`` without its end of line."""

    prompt: str
    answer: str


def addition(draw: random.Random) -> Item:
    """Sum of two numbers of two digits that is itself below a hundred."""
    a = draw.randrange(10, 89)
    b = draw.randrange(10, 100 - a)
    return Item(f"add {a} {b}=", str(a + b))


def sorting(draw: random.Random, most: int = 9) -> Item:
    """Seven to `most` digits, some of them alike, in ascending order."""
    digits = "".join(draw.choices("0123456789", k=_between(draw, 7, most)))
    return Item(f"sort {digits}=", "".join(sorted(digits)))


def reversal(draw: random.Random, least: int = 5, most: int = 7) -> Item:
    """`least` to `most` different letters from the last to the first."""
    letters = "".join(draw.sample(LETTERS, _between(draw, least, most)))
    return Item(f"reverse {letters}=", letters[::-1])


def counting(draw: random.Random) -> Item:
    """How often a digit occurs among eight."""
    digits = "".join(draw.choices("123", k=8))
    wanted = draw.choice("123")
    return Item(f"count {wanted} {digits}=", str(digits.count(wanted)))


def lookup(draw: random.Random) -> Item:
    """The digits that a fixed dictionary has for four letters."""
    letters = "".join(draw.choices(LETTERS.upper(), k=4))
    return Item(f"find {letters}=", "".join(DICTIONARY[letter] for letter in letters))


def lookup_in_prompt(draw: random.Random) -> Item:
    """Two of four keys, each with the digit that stands behind it in a dictionary of the moment."""
    keys = draw.sample(LETTERS.upper(), 4)
    values = {key: draw.choice("0123456789") for key in keys}
    wanted = draw.sample(keys, 2)
    pairs = "".join(key + value for key, value in values.items())
    return Item(f"find {pairs} {''.join(wanted)}=", "".join(key + values[key] for key in wanted))


def brackets(draw: random.Random, least: int = 5, most: int = 9) -> Item:
    """The brackets that close what `least` to `most` leave open, innermost first."""
    open_now: list[str] = []
    shown: list[str] = []
    for _ in range(_between(draw, least, most)):
        if len(open_now) > 1 and draw.random() < 0.3:
            shown.append(BRACKETS[open_now.pop()])
        else:
            open_now.append(draw.choice("([{<"))
            shown.append(open_now[-1])
    return Item(f"close {' '.join(shown)} =", " ".join(BRACKETS[b] for b in reversed(open_now)))


def maximum(draw: random.Random, most: int = 4) -> Item:
    """The largest of three to `most` numbers of two digits."""
    numbers = [draw.randrange(10, 100) for _ in range(_between(draw, 3, most))]
    return Item(f"max {' '.join(map(str, numbers))}=", str(max(numbers)))


def dates(draw: random.Random) -> Item:
    """The day so many days after a date (no leap year)."""
    month, ahead = draw.randrange(12), draw.randint(1, 12)
    days = calendar.monthrange(2023, month + 1)[1]
    day = draw.randint(1, days)
    later, in_month = (
        (day + ahead, month)
        if day + ahead <= days
        else (
            day + ahead - days,
            (month + 1) % 12,
        )
    )
    return Item(f"date {day} {MONTHS[month]} +{ahead}=", f"{later} {MONTHS[in_month]}")


SKILLS: dict[str, Callable[[random.Random], Item]] = {
    "addition": addition,
    "sorting": sorting,
    "lookup": lookup,
    "reversal": reversal,
    "brackets": brackets,
    "counting": counting,
    "dates": dates,
    "maximum": maximum,
}
"""What is asked for, and what a donor or adapter learns as its own."""

READ: dict[str, Callable[[random.Random], Item]] = {
    **SKILLS,
    "sorting": partial(sorting, most=7),
    "lookup": lookup_in_prompt,
    "reversal": partial(reversal, least=4, most=6),
    "brackets": partial(brackets, least=4, most=8),
    "maximum": partial(maximum, most=3),
}
"""What the base learns, and every donor beside its own skill."""


def _between(draw: random.Random, least: int, most: int) -> int:
    # Where there is no choice nothing is drawn: the committed weights were trained on such items.
    return least if least == most else draw.randint(least, most)


def is_held_out(item: Item) -> bool:
    """True if the item belongs to the evaluation, by the digest of its prompt alone."""
    return hashlib.sha256(item.prompt.encode()).digest()[0] < HELD_OUT_OF_256


def generate(
    skill: str, count: int, *, held_out: bool, seed: int = 0, read: bool = False
) -> list[Item]:
    """`count` items of one split; held-out items are all different, the same call the same list.

    With `read` they have the form that the base learns. Training items may repeat, as the smaller
    skills have only some thousand of them.
    """
    draw = random.Random(f"{skill}/{'held out' if held_out else 'training'}/{seed}")
    make = (READ if read else SKILLS)[skill]
    items: list[Item] = []
    seen: set[str] = set()
    while len(items) < count:
        item = make(draw)
        if is_held_out(item) is not held_out or (held_out and item.prompt in seen):
            continue
        seen.add(item.prompt)
        items.append(item)
    return items
