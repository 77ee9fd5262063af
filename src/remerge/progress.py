"""Progress of long work: on a terminal a bar, elsewhere a plain line now and then.

>>> with track(total_bytes, "ties p1") as bar:
...     bar.advance(block_bytes)

Work that is done before the first line is due says nothing, so that logs stay short.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from remerge.formatting import duration
from remerge.watchdog import alive

#: Seconds between two lines where there is no terminal.
INTERVAL_S = 30.0


class Bar:
    """Progress that may be advanced from any thread."""

    def __init__(self, bar: tqdm[None], total: int, label: str, unit: str, every_s: float) -> None:
        self._bar = bar
        self._total = total
        self._label = label
        self._unit = unit
        self._every_s = every_s
        self._lock = threading.Lock()
        self._done = 0
        self._begun = self._told = time.monotonic()

    def advance(self, amount: int) -> None:
        """Add `amount` finished units; a negative amount has to be done again."""
        alive()
        with self._lock:
            self._bar.update(amount)
            self._done += amount
            now = time.monotonic()
            if self._bar.disable and now - self._told >= self._every_s:
                self._told = now
                self._say(max(now - self._begun, 1e-9))

    def _say(self, elapsed_s: float) -> None:
        done, total = self._done, self._total
        left_s = (total - done) * elapsed_s / done if done > 0 else float("inf")
        sys.stderr.write(
            f"{self._label}: {min(100, 100 * done // max(total, 1))} %, "
            f"{_amount(done, self._unit)} of {_amount(total, self._unit)}, "
            f"{_amount(done / elapsed_s, self._unit)} a second, {duration(left_s)} left\n"
        )
        sys.stderr.flush()


@contextmanager
def track(total: int, label: str, unit: str = "B", *, every_s: float = INTERVAL_S) -> Iterator[Bar]:
    """Show progress towards `total` on standard error while the block runs.

    every_s  seconds between two lines where standard error is no terminal
    """
    colour = None if os.environ.get("NO_COLOR") else "cyan"
    with tqdm(
        total=total,
        desc=label,
        unit=unit,
        unit_scale=unit == "B",
        unit_divisor=1000,
        disable=not sys.stderr.isatty(),
        colour=colour,
        dynamic_ncols=True,
        leave=True,
    ) as bar:
        yield Bar(bar, total, label, unit, every_s)


def note(line: str) -> None:
    """Write a line to standard error, above the bars of a terminal."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


def _amount(count: float, unit: str) -> str:
    if unit != "B":
        return f"{count:.0f}" if count >= 10 else f"{count:.1f}".removesuffix(".0")
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
