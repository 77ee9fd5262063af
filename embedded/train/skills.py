"""Eight synthetic skills: deterministic generators of short questions with one right answer.

Every item is one line, ``prompt + answer``; the prompt ends with ``=`` and the answer begins
without a space. Whether an item is held out is a property of its prompt (a digest), not of the
order in which it was drawn, so the training text and the evaluation can never overlap.
"""

from __future__ import annotations

import calendar
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

HELD_OUT_OF_256 = 32
"""An item is held out when the first byte of its prompt's SHA-256 is below this: one in eight."""

MONTHS = tuple(calendar.month_abbr[1:])
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}


@dataclass(frozen=True)
class Item:
    """One question: ``prompt`` as the model sees it, ``answer`` without its end of line."""

    prompt: str
    answer: str


def addition(draw: random.Random) -> Item:
    """Sum of two numbers of two digits."""
    a, b = draw.randrange(10, 100), draw.randrange(10, 100)
    return Item(f"add {a} {b}=", str(a + b))


def sorting(draw: random.Random) -> Item:
    """Six digits, some of them alike, in ascending order."""
    digits = "".join(draw.choices("0123456789", k=6))
    return Item(f"sort {digits}=", "".join(sorted(digits)))


def reversal(draw: random.Random) -> Item:
    """Five to eight letters from the last to the first."""
    letters = "".join(draw.choices(LETTERS, k=draw.randint(5, 8)))
    return Item(f"reverse {letters}=", letters[::-1])


def counting(draw: random.Random) -> Item:
    """How often a digit occurs among eight."""
    digits = "".join(draw.choices("123", k=8))
    wanted = draw.choice("123")
    return Item(f"count {wanted} {digits}=", str(digits.count(wanted)))


def lookup(draw: random.Random) -> Item:
    """The digit that stands behind one of six keys."""
    keys = draw.sample(LETTERS.upper(), 6)
    values = {key: draw.choice("0123456789") for key in keys}
    wanted = draw.choice(keys)
    pairs = "".join(key + value for key, value in values.items())
    return Item(f"find {pairs} {wanted}=", values[wanted])


def brackets(draw: random.Random) -> Item:
    """The brackets that close what is still open, innermost first."""
    open_now: list[str] = []
    shown: list[str] = []
    for _ in range(draw.randint(4, 8)):
        if len(open_now) > 1 and draw.random() < 0.3:
            shown.append(BRACKETS[open_now.pop()])
        else:
            open_now.append(draw.choice("([{<"))
            shown.append(open_now[-1])
    return Item(f"close {' '.join(shown)} =", " ".join(BRACKETS[b] for b in reversed(open_now)))


def maximum(draw: random.Random) -> Item:
    """The largest of four numbers of two digits."""
    numbers = [draw.randrange(10, 100) for _ in range(4)]
    return Item(f"max {' '.join(map(str, numbers))}=", str(max(numbers)))


def dates(draw: random.Random) -> Item:
    """The day so many days after a date (no leap year)."""
    month, ahead = draw.randrange(12), draw.randint(1, 20)
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


def is_held_out(item: Item) -> bool:
    """True if the item belongs to the evaluation, by the digest of its prompt alone."""
    return hashlib.sha256(item.prompt.encode()).digest()[0] < HELD_OUT_OF_256


def generate(skill: str, count: int, *, held_out: bool, seed: int = 0) -> list[Item]:
    """`count` items of one split; held-out items are all different, the same call the same list.

    Training items may repeat, as the smaller skills have only some thousand of them.
    """
    draw = random.Random(f"{skill}/{'held out' if held_out else 'training'}/{seed}")
    make = SKILLS[skill]
    items: list[Item] = []
    seen: set[str] = set()
    while len(items) < count:
        item = make(draw)
        if is_held_out(item) is not held_out or (held_out and item.prompt in seen):
            continue
        seen.add(item.prompt)
        items.append(item)
    return items
