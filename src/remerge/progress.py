"""A progress bar for long work: on a terminal a bar, elsewhere nothing.

>>> with track(total_bytes, "ties p1") as bar:
...     bar.advance(block_bytes)
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Bar:
    """A bar that may be advanced from any thread."""

    def __init__(self, bar: tqdm[None]) -> None:
        self._bar = bar
        self._lock = threading.Lock()

    def advance(self, amount: int) -> None:
        """Add `amount` finished units."""
        with self._lock:
            self._bar.update(amount)


@contextmanager
def track(total: int, label: str, unit: str = "B") -> Iterator[Bar]:
    """Show progress towards `total` on standard error while the block runs."""
    quiet = not sys.stderr.isatty()
    colour = None if os.environ.get("NO_COLOR") else "cyan"
    with tqdm(
        total=total,
        desc=label,
        unit=unit,
        unit_scale=unit == "B",
        unit_divisor=1000,
        disable=quiet,
        colour=colour,
        dynamic_ncols=True,
        leave=True,
    ) as bar:
        yield Bar(bar)
