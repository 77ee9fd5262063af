"""From a number to one of a few classes of colour, by comparisons alone.

The classes are named in the page's style, where light and dark have colours of their own. Their
bounds are made by sums, products and quotients, never a logarithm, so that every machine puts a
number into the same class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CLASSES = 9
_RATIOS = (1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """`prefix` names the ramp (`q` sequential, `d` diverging); `bounds` part its classes."""

    prefix: str
    bounds: tuple[float, ...]
    low: float
    high: float
    note: str = ""

    def class_of(self, value: float) -> str:
        """The name of the colour of `value`."""
        return f"{self.prefix}{sum(value >= bound for bound in self.bounds)}"


def linear(low: float, high: float) -> Scale:
    """Equal steps from low to high."""
    width = (high - low) / CLASSES
    return Scale("q", tuple(low + width * k for k in range(1, CLASSES)), low, high)


def around_zero(values: Sequence[float]) -> Scale:
    """Equal steps on both sides of 0, as far as the largest value on either."""
    far = max((abs(value) for value in values), default=0.0) or 1.0
    width = 2 * far / CLASSES
    return Scale("d", tuple(-far + width * k for k in range(1, CLASSES)), -far, far)


def growing(values: Sequence[float]) -> Scale:
    """Steps of one ratio, from the largest value down; zeros take the first class."""
    present = [value for value in values if value > 0]
    if not present:
        return Scale("q", tuple(float(k) for k in range(1, CLASSES)), 0.0, 0.0)
    high, low = max(present), min(present)
    for ratio in _RATIOS:
        bounds = [high / ratio]
        while len(bounds) < CLASSES - 1:
            bounds.append(bounds[-1] / ratio)
        if bounds[-1] <= low:
            break
    return Scale("q", tuple(reversed(bounds)), low, high, f"each step is {ratio:g} times the last")
