"""The values of an updated weight in float64, rows at a time; docs/contract.md has the formulas.

>>> rows = rows_of(update, WeightRows(info, "hermes"), "kimiko")
>>> rows(weight_f64, 0, 4)  # the new values of rows 0 to 3, before they are rounded

Every product, sum and quotient is rounded to float64 by itself, in the order written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import numpy as np

from remerge.adapters.updates import (
    BiasShift,
    ExpertsUpdate,
    Factors,
    HadamardUpdate,
    KroneckerUpdate,
    LowRankUpdate,
    Rescaling,
    TokenRows,
    Update,
    VeraUpdate,
)
from remerge.arithmetic.sums import LANES
from remerge.baking.update_kernel import (
    add_column_squares,
    add_row_squares,
    low_rank_rows,
    norms_of,
)
from remerge.errors import NumericError, printable
from remerge.shards.chunks import name_bad_number
from remerge.tensors.checkpoint import read_f32
from remerge.tensors.safetensors import TensorInfo

#: New rows [first, last) in float64 from the old ones: (weight_f64, first, last) to float64.
Rows = Callable[[np.ndarray, int, int], np.ndarray]

#: Rows a step of a pass over a whole weight.
_STEP = 64


@dataclass(frozen=True)
class WeightRows:
    """The weight before its update: rows of its last axis, of which a vector has one element."""

    info: TensorInfo
    label: str

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.info.shape[-1] if len(self.info.shape) > 1 else 1

    def count(self) -> int:
        """Number of rows."""
        return math.prod(self.info.shape) // max(1, self.width)

    def read(self, first: int, last: int) -> np.ndarray:
        """Rows [first, last) as float64, exactly; NumericError for a NaN or Inf in them."""
        values_f32 = read_f32(self.info, first * self.width, last * self.width)
        if not np.isfinite(values_f32).all():
            raise name_bad_number({self.label: self.info}, self.info.name)
        return values_f32.astype(np.float64).reshape(last - first, self.width)


@singledispatch
def rows_of(update: Update, weight: WeightRows, label: str) -> Rows:
    """Prepare the computation of an updated weight.

    Args:
        update: The update; it fits the weight.
        weight: The weight before it.
        label: The adapter's name in messages.

    Returns:
        The function that gives new rows; it may change the rows that it is given.

    Raises:
        NumericError: A NaN or Inf in the adapter's tensors, or a norm of 0 under DoRA.
    """
    raise TypeError(type(update).__name__)


def stored_factors(update: LowRankUpdate, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return A [r, columns] and B [rows, r] of the weight as it is stored, in float64."""
    return _as_stored(_read(update.a, label), _read(update.b, label), bool(update.transposed))


@rows_of.register
def _lora(update: LowRankUpdate, weight: WeightRows, label: str) -> Rows:
    added = _added(*stored_factors(update, label), update.scale)
    if update.magnitude is None:
        return added
    magnitude = _read(update.magnitude, label)
    rescale = _rescaled_columns if update.transposed else _rescaled_rows
    return rescale(added, magnitude, weight, label)


def _added(a_f64: np.ndarray, b_f64: np.ndarray, scale: float) -> Rows:
    factor = np.float64(scale)

    def rows(weight_f64: np.ndarray, first: int, last: int) -> np.ndarray:
        delta = np.empty_like(weight_f64)
        low_rank_rows(a_f64, b_f64, first, last, delta)
        return weight_f64 + factor * delta

    return rows


def _rescaled_rows(added: Rows, magnitude: np.ndarray, weight: WeightRows, label: str) -> Rows:
    """DoRA: V' = (m / ‖V‖) · V for each row V."""

    def rows(weight_f64: np.ndarray, first: int, last: int) -> np.ndarray:
        values = added(weight_f64, first, last)
        lanes = np.zeros((last - first, LANES))
        add_row_squares(values, lanes)
        return _ratios(magnitude[first:last], lanes, weight, label)[:, None] * values

    return rows


def _rescaled_columns(added: Rows, magnitude: np.ndarray, weight: WeightRows, label: str) -> Rows:
    """DoRA of a weight that is stored [in, out]: the vectors are its columns."""
    lanes = np.zeros((LANES, magnitude.size))
    for first in range(0, weight.count(), _STEP):
        last = min(first + _STEP, weight.count())
        add_column_squares(added(weight.read(first, last), first, last), first, lanes)
    ratios = _ratios(magnitude, np.ascontiguousarray(lanes.T), weight, label)
    return lambda weight_f64, first, last: ratios * added(weight_f64, first, last)


def _ratios(magnitude: np.ndarray, lanes: np.ndarray, weight: WeightRows, label: str) -> np.ndarray:
    norms = norms_of(lanes)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        raise NumericError(
            f"{label}: {printable(weight.info.name)!r}: DoRA divides by the norm of the updated "
            f"weight, and that of one output is {norms[bad[0]]}; the adapter is damaged"
        )
    return magnitude / norms


@rows_of.register
def _vera(update: VeraUpdate, weight: WeightRows, label: str) -> Rows:
    shape = weight.info.shape
    outgoing, incoming = reversed(shape) if update.transposed else shape
    a_f64 = _read(update.lambda_d, label)[:, None] * _read(update.a, label)[:, :incoming]
    b_f64 = _read(update.lambda_b, label)[:, None] * _read(update.b, label)[:outgoing]
    return _added(*_as_stored(a_f64, b_f64, bool(update.transposed)), 1.0)


@rows_of.register
def _experts(update: ExpertsUpdate, weight: WeightRows, label: str) -> Rows:
    experts, height, width = weight.info.shape
    a_f64 = _read(update.a, label).reshape(experts, -1, update.a.shape[1])
    b_f64 = _read(update.b, label).reshape(update.b.shape[0], -1, experts)
    scale = np.float64(update.scale)

    def rows(weight_f64: np.ndarray, first: int, last: int) -> np.ndarray:
        delta = np.empty_like(weight_f64)
        row = first
        while row < last:
            expert, inside = divmod(row, height)
            count = min(height - inside, last - row)
            one, two = _as_stored(a_f64[expert], b_f64[:, :, expert], update.transposed)
            part = np.empty((count, width))
            low_rank_rows(one, two, inside, inside + count, part)
            delta[row - first : row - first + count] = part
            row += count
        return weight_f64 + scale * delta

    return rows


@rows_of.register
def _loha(update: HadamardUpdate, weight: WeightRows, label: str) -> Rows:
    pairs = [[_read(info, label) for info in pair] for pair in (update.one, update.two)]
    scale = np.float64(update.scale)

    def rows(weight_f64: np.ndarray, first: int, last: int) -> np.ndarray:
        one, two = np.empty_like(weight_f64), np.empty_like(weight_f64)
        for (left, right), product in zip(pairs, (one, two), strict=True):
            low_rank_rows(right, left, first, last, product)
        return weight_f64 + scale * (one * two)

    return rows


@rows_of.register
def _lokr(update: KroneckerUpdate, weight: WeightRows, label: str) -> Rows:
    left, right = _product(update.left, label), _product(update.right, label)
    scale, height = np.float64(update.scale), right.shape[0]

    def rows(weight_f64: np.ndarray, first: int, last: int) -> np.ndarray:
        numbers = np.arange(first, last)
        outer, inner = left[numbers // height], right[numbers % height]
        product = (outer[:, :, None] * inner[:, None, :]).reshape(weight_f64.shape)
        return weight_f64 + scale * product

    return rows


@rows_of.register
def _ia3(update: Rescaling, weight: WeightRows, label: str) -> Rows:
    factors = _read(update.vector, label).reshape(-1)
    if len(weight.info.shape) == 1 or update.outgoing != bool(update.transposed):
        return lambda weight_f64, first, last: weight_f64 * factors[first:last, None]
    return lambda weight_f64, first, last: weight_f64 * factors


@rows_of.register
def _tokens(update: TokenRows, weight: WeightRows, label: str) -> Rows:
    order = np.argsort(update.tokens)
    tokens, values = np.array(update.tokens)[order], _read(update.values, label)[order]

    def rows(weight_f64: np.ndarray, first: int, last: int) -> np.ndarray:
        begin, end = np.searchsorted(tokens, (first, last))
        weight_f64[tokens[begin:end] - first] = values[begin:end]
        return weight_f64

    return rows


@rows_of.register
def _bias(update: BiasShift, weight: WeightRows, label: str) -> Rows:
    vector, scale = _read(update.vector, label), np.float64(update.scale)
    return lambda weight_f64, first, last: weight_f64 + (scale * vector[first:last])[:, None]


def _read(info: TensorInfo, label: str) -> np.ndarray:
    """A tensor of an adapter as float64; NumericError for a NaN or Inf in it."""
    values = read_f32(info)
    if not np.isfinite(values).all():
        raise name_bad_number({label: info}, info.name)
    return values.reshape(info.shape).astype(np.float64)


def _as_stored(
    a_f64: np.ndarray, b_f64: np.ndarray, transposed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A and B, or for (B·A)ᵀ = Aᵀ·Bᵀ the two transposed: the sum over k keeps its order."""
    if transposed:
        return np.ascontiguousarray(b_f64.T), np.ascontiguousarray(a_f64.T)
    return np.ascontiguousarray(a_f64), np.ascontiguousarray(b_f64)


def _product(factors: Factors, label: str) -> np.ndarray:
    if len(factors) == 1:
        return _read(factors[0], label)
    left, right = (_read(info, label) for info in factors)
    product = np.empty((left.shape[0], right.shape[1]))
    low_rank_rows(right, left, 0, left.shape[0], product)
    return product
