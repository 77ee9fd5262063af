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
from contextlib import contextmanager, suppress

from tqdm import tqdm

from remerge.formatting import duration
from remerge.watchdog import alive

#: Seconds between two lines where there is no terminal.
INTERVAL_S = 30.0
#: Seconds until the first of them.
FIRST_S = 2.0


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
        self._begun = time.monotonic()
        self._told = self._begun - every_s + min(FIRST_S, every_s)

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


@contextmanager
def announce(label: str, *, after_s: float = 1.5) -> Iterator[None]:
    """Say `label` on standard error if the block takes longer than `after_s` seconds.

    For work that has no measure, such as loading a library.
    """
    timer = threading.Timer(after_s, _say, [label])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Compiling:
    """Says once in a process that kernels are being compiled, if that takes longer than moments."""

    def __init__(self, after_s: float = 1.5) -> None:
        self._after_s = after_s
        self._lock = threading.Lock()
        self._begun: float | None = None
        self._open = 0
        self._said = False

    def be_silent(self) -> None:
        """Say nothing: whoever compiles says it."""
        self._said = True

    def begin(self) -> None:
        """A compilation begins."""
        with self._lock:
            self._open += 1
            if self._begun is not None:
                self._tell()
                return
            self._begun = time.monotonic()
        timer = threading.Timer(self._after_s, self._look)
        timer.daemon = True
        timer.start()

    def end(self) -> None:
        """A compilation has ended."""
        with self._lock:
            self._open -= 1

    def _look(self) -> None:
        with self._lock:
            self._tell()

    def _tell(self) -> None:
        late = time.monotonic() - (self._begun or 0) >= self._after_s
        if self._open and late and not self._said:
            self._said = True
            _say(
                "compiling kernels for this machine, once: up to a minute "
                "(`remerge compile` does it beforehand)"
            )


def _say(label: str) -> None:
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{label} …\n")
        sys.stderr.flush()


def _amount(count: float, unit: str) -> str:
    if unit != "B":
        return f"{count:.0f}" if count >= 10 else f"{count:.1f}".removesuffix(".0")
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
