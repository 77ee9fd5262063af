"""What the methods on task vectors share: thin out, rescale, weigh, agree, add to the base.

A method of the kin says which entries of a donor are kept (`Kept`); the rest is here, once. The
steps and their rounding stand in `docs/contract.md`, "Task arithmetic and its kin".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from remerge.arithmetic.philox import ALL
from remerge.arithmetic.sums import LANES
from remerge.arithmetic.task_vectors import (
    COUNT,
    DONOR,
    KEEP_ALL,
    KEEP_TABLE,
    NONE,
    RULE,
    SUM,
    add_chunk,
    measure_chunk,
)
from remerge.errors import NumericError, RecipeError, printable
from remerge.kernels.blocks import records
from remerge.methods.linear import NO_SUM, nearly_zero, sum_of_weights
from remerge.methods.method import WEIGHT, Chunks, Inputs, Parameter, Values
from remerge.methods.slerp import significant
from remerge.methods.stream import check, in_chunks, spans
from remerge.methods.trim import KEEP_NOTHING, Trim

#: Sums of magnitudes below this are rescaled by nothing.
NO_MAGNITUDE = 1e-7

LAMBDA = Parameter("lambda", "float", "factor of the merged task vector", default=1.0)
INT8_MASK = Parameter("int8_mask", "bool", "accepted for mergekit; no effect", default=False)
RESCALE_NORM = Parameter(
    "rescale_norm",
    "choice",
    "divide by the density, as published, or match the L1 norm, as mergekit does",
    default="density",
    choices=("density", "l1"),
    mergekit="l1",
)
SEED = Parameter(
    "seed", "int", "of the random draws", default=0, low=0, high=2**53, per_tensor=False
)


#: What a negative weight is in a divisor. The second can make it 0, or turn a sign back.
DIVIDE_BY = Parameter(
    "divide_by",
    "choice",
    "normalize by magnitudes of weights, or by weights with their signs, as mergekit does",
    default="magnitudes",
    choices=("magnitudes", "weights"),
    mergekit="weights",
)
#: Donors of which all sums of weights are examined.
_MOST_DONORS = 20


def normalize_parameters(default: bool) -> tuple[Parameter, Parameter]:
    """The switch `normalize`, and what it divides by."""
    switch = Parameter("normalize", "bool", "divide by the weights that agree", default=default)
    return switch, DIVIDE_BY


def require_divisor(values: Values, where: str) -> None:
    """RecipeError if weights with their signs may sum to nearly 0 where `normalize` divides by it.

    With consensus any of the donors may agree, without it all do.
    """
    consensus = "elect" in values
    weights = [float(np.float32(weight)) for weight in values["weight"]]
    if not values["normalize"] or values["divide_by"] == "magnitudes" or min(weights) >= 0:
        return
    advice = "set divide_by: magnitudes, or normalize: false"
    if consensus and len(weights) > _MOST_DONORS:
        raise RecipeError(
            f"{printable(where)}: of {len(weights)} donors with a negative weight among them some "
            f"may agree whose weights sum to 0; {advice}"
        )
    for agreeing in _agreeing(weights) if consensus else [weights]:
        if nearly_zero(agreeing):
            raise RecipeError(
                f"{printable(where)}: the weights {', '.join(f'{w:g}' for w in agreeing)} sum to "
                f"nearly 0, by which normalize would divide; {advice}"
            )


def _agreeing(weights: Sequence[float]) -> Iterator[list[float]]:
    """Every set of donors that can agree: those of weight 0 never do."""
    some = [weight for weight in weights if weight]
    for size in range(1, len(some) + 1):
        yield from map(list, combinations(some, size))


def rescale_parameter(default: bool) -> Parameter:
    """The switch `rescale`."""
    return Parameter("rescale", "bool", "make up for what was dropped", default=default)


def density_parameter(zero: bool = True) -> Parameter:
    """The share of entries to keep."""
    return Parameter(
        "density",
        "float",
        "share of the task vector to keep",
        default=1.0,
        low=0.0,
        high=1.0,
        without=() if zero else (0.0,),
        scope="model",
    )


#: Parameters of all of the kin, with their own normalize, rescale and density.
COMMON = (WEIGHT, LAMBDA, INT8_MASK)

Compute = Callable[[Inputs, Values], Chunks]
#: Fills a table of factors, float32 [elements], for the donor `i` and elements [begin, end).
FillTable = Callable[[int, int, int, np.ndarray], int]


@dataclass(frozen=True)
class Kept:
    """Which entries are kept, and by which factors they are multiplied.

    kind         KEEP_ALL, KEEP_WINDOW, KEEP_RANDOM or KEEP_TABLE
    trims        of a window: for each donor what is kept, and what of it is not
    keys         of random draws, for each donor
    draw_limits  entries are kept whose draw is below
    fill_table   of a table: the factor of each entry, 0 for a dropped one; a part is whole rows
    factors      factor of all entries of a donor; None: nothing is multiplied
    counts       entries kept by donor, where they are known before
    """

    kind: int = KEEP_ALL
    trims: tuple[tuple[Trim, Trim], ...] = ()
    keys: tuple[tuple[int, int], ...] = ()
    draw_limits: tuple[int, ...] = ()
    fill_table: FillTable | None = None
    factors: tuple[float | None, ...] = ()
    counts: tuple[int, ...] | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def thinning(
    keep: Callable[[Inputs, Values], Kept], match_l1: Callable[[Values], bool]
) -> tuple[Compute, Compute]:
    """Return the two computations of a method that thins task vectors out.

    Args:
        keep: What is kept of each donor of a tensor.
        match_l1: Whether the parameters ask to match the L1 norm.

    Returns:
        The one that adds up what is kept, and the one with the signs of TIES.
    """

    def merge(inputs: Inputs, values: Values, consensus: int) -> Chunks:
        if not inputs.size:
            return {}
        kept = keep(inputs, values)
        return (yield from add_task_vectors(inputs, values, kept, consensus, match_l1(values)))

    return (
        lambda inputs, values: merge(inputs, values, NONE),
        lambda inputs, values: merge(inputs, values, ELECTIONS[values["elect"]]),
    )


def asks_for_l1(values: Values) -> bool:
    """Whether `rescale` and `rescale_norm` ask to match the L1 norm."""
    return bool(values["rescale"] and values["rescale_norm"] == "l1")


def add_task_vectors(
    inputs: Inputs,
    values: Values,
    kept: Kept,
    consensus: int = NONE,
    match_l1: bool = False,
) -> Chunks:
    """Merge one tensor of which `kept` says what to keep.

    Args:
        inputs: The tensor; not empty.
        values: Parameters of the method: weight, lambda, normalize, divide_by.
        kept: What is kept of each donor.
        consensus: NONE, SUM or COUNT.
        match_l1: Multiply what is kept so that the sum of magnitudes is that of all entries.
    """
    assert inputs.base is not None
    base, models = inputs.base.raw, [m.raw for m in inputs.models]
    count = len(models)
    by_magnitudes = values["divide_by"] == "magnitudes"
    shares = [abs(weight) if by_magnitudes else weight for weight in values["weight"]]
    donors = _donors(kept, values["weight"], shares)
    row = inputs.row if kept.kind == KEEP_TABLE else 1
    tables = _Tables(kept, count, inputs)
    factors = list(kept.factors or [None] * count)
    if match_l1:
        factors = [_l1_factor(inputs, i, kept.kind, donors[i], tables) for i in range(count)]
    with np.errstate(over="ignore"):
        donors["rescale"] = np.array([1.0 if f is None else f for f in factors])
    if not np.isfinite(donors["rescale"]).all():
        raise NumericError(
            f"tensor {printable(inputs.name)!r}: what is kept is too small to be rescaled; keep "
            "more of it, or set rescale: false"
        )
    divisor = sum_of_weights(shares)
    divisor = np.float32(1) if abs(divisor) < NO_SUM else divisor
    counts = np.zeros(count, np.int64)
    tensors = records(models)
    terms = (kept.kind, consensus, values["lambda"], divisor, values["normalize"])
    rule = np.array([terms], RULE)[0]

    def run(part: np.void) -> int:
        table = tables.of_all(part["begin"], part["end"])
        return add_chunk(base.record, tensors, donors, rule, table, part, counts)

    yield from in_chunks(inputs, run, row)
    numbers = list(kept.counts) if kept.counts is not None else counts.tolist()
    found: dict[str, Any] = {"kept": numbers}
    if match_l1:
        found["rescale"] = [significant(float(f)) for f in donors["rescale"]]
    return found


class _Tables:
    """The factors of entries by part of the tensor, in one buffer; empty for other kinds."""

    def __init__(self, kept: Kept, count: int, inputs: Inputs) -> None:
        self._fill = kept.fill_table
        self._inputs = inputs
        longest = max((end - begin for begin, end in spans(inputs.size, inputs.row)), default=0)
        self._buffer = np.ones((count, longest if self._fill else 1), np.float32)
        if not self._fill:
            # Never read, but sliced from anywhere.
            self._buffer = np.ones((count, 1), np.float32)

    def of(self, donor: int, begin: int, end: int) -> np.ndarray:
        """float32 [elements] of one donor."""
        if self._fill is None:
            return self._buffer[donor]
        check(self._inputs, self._fill(donor, begin, end, self._buffer[donor]))
        return self._buffer[donor]

    def of_all(self, begin: int, end: int) -> np.ndarray:
        """float32 [m, elements] of every donor."""
        for donor in range(len(self._buffer)):
            self.of(donor, begin, end)
        return self._buffer


def _donors(kept: Kept, weights: Sequence[float], shares: Sequence[float]) -> np.ndarray:
    """DONOR [m], not rescaled."""
    donors = np.zeros(len(weights), DONOR)
    donors["limits"], donors["lasts"] = KEEP_NOTHING.threshold, -1
    if kept.trims:
        donors["limits"] = [[trim.threshold for trim in pair] for pair in kept.trims]
        donors["lasts"] = [[trim.last for trim in pair] for pair in kept.trims]
    if kept.keys:
        donors["key"] = kept.keys
    donors["draw_limit"] = kept.draw_limits or ALL
    donors["rescale"] = 1.0
    donors["weight"], donors["share"] = weights, shares
    return donors


def _l1_factor(
    inputs: Inputs, index: int, kind: int, donor: np.void, tables: _Tables
) -> float | None:
    assert inputs.base is not None
    base, model = inputs.base.raw.record, inputs.models[index].raw.record
    lanes = np.zeros((2, LANES), np.float64)
    for begin, end in spans(inputs.size, inputs.row if kind == KEEP_TABLE else 1):
        table = tables.of(index, begin, end)
        check(inputs, measure_chunk(base, model, kind, donor, table, begin, end, lanes))
    before, after = math.fsum(lanes[0].tolist()), math.fsum(lanes[1].tolist())
    if before < NO_MAGNITUDE or after < NO_MAGNITUDE:
        return None
    return before / after


#: The word of `elect` for each way to find agreement.
ELECTIONS = {"sum": SUM, "count": COUNT}
ELECT = Parameter(
    "elect", "choice", "sign of the sum, or of the count", default="sum", choices=("sum", "count")
)
