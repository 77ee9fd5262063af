"""What each test of this folder tries, kept beside it; docs/faults.md is made from these rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., object])


@dataclass(frozen=True)
class Fault:
    """A row: what happens, what the user sees, what was lost, what the next run does."""

    number: int
    happens: str
    sees: str
    lost: str
    then: str
    test: str


FAULTS: dict[int, Fault] = {}


def fault(
    number: int, happens: str, *, sees: str, then: str, lost: str = "nothing"
) -> Callable[[Test], Test]:
    """Note the row of the test that follows."""

    def note(test: Test) -> Test:
        place = f"{test.__module__.replace('.', '/')}.py::{test.__name__}"
        known = FAULTS.get(number)
        assert known is None or known.test == place, f"row {number} stands twice"
        FAULTS[number] = Fault(number, happens, sees, lost, then, place)
        return test

    return note
