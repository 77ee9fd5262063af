"""The GPTQ solver (Frantar et al. 2022, arXiv 2210.17323): columns rounded one after the other.

>>> codes = solve(weight, hessian, scales, bits=4, by_activation=False, pool=pool)

Each column is rounded, and the columns not yet rounded take up its error in the proportion that
keeps the layer's output closest to what it was on the calibration text; the inverse of the input's
second moments H gives the proportion. Scales are those of the original weights (the variant with
static groups), so only the codes depend on the text.

Everything is float64 in a fixed order, one operation at a time: given H, the result is exact. And
what rounding noise is in H moves no code, since a value that lies on the border between two codes
by construction (the columns rounded first, whose values and scales are short binary fractions) is
decided by the rule and not by the noise: the border is half a code less 2⁻²⁴, and halves go up.
"""

# numba infers the types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from remerge.errors import NumericError
from remerge.kernels.compiled import kernel

#: Share of the mean of the diagonal that is added to it (`percdamp` of the paper's code).
DAMPING = 0.01
_BORDER = 0.5 + 2.0**-24
_ROWS = 32


@kernel()
def _upper_factor(a):
    """Turn the symmetric positive definite `a` into U, upper, with inverse(a) = Uᵀ·U; False if not.

    First a = R·Rᵀ with R upper (a Cholesky factor from the last column back), then U = R⁻¹. Inner
    loops run along rows without a reduction, so that they vectorise and keep their order.
    """
    n = a.shape[0]
    for k in range(n - 1, -1, -1):
        pivot = a[k, k]
        if not pivot > 0.0:
            return False
        root = np.sqrt(pivot)
        # Row k left of the diagonal stands for column k above it until the end.
        for j in range(k):
            a[k, j] = a[k, j] / root
        a[k, k] = root
        for i in range(k):
            factor = a[k, i]
            for j in range(i + 1):
                a[i, j] -= factor * a[k, j]
    # The lower triangle now holds L = Rᵀ (a = Lᵀ·L); U = R⁻¹ = (L⁻¹)ᵀ, solved row by row of L⁻¹.
    inverse = np.zeros((n, n))
    for i in range(n):
        row = inverse[i]
        row[i] = 1.0
        for k in range(i):
            factor = a[i, k]
            for j in range(k + 1):
                row[j] -= factor * inverse[k, j]
        diagonal = a[i, i]
        for j in range(i + 1):
            row[j] = row[j] / diagonal
    for i in range(n):
        for j in range(n):
            a[i, j] = inverse[j, i] if j >= i else 0.0
    return True


@kernel()
def _round_rows(work, factor, scales, codes, least, most):
    """Round the rows of `work` [rows, n] in place of order; `scales` [rows, n] is one a column."""
    rows, n = work.shape
    for r in range(rows):
        row = work[r]
        for j in range(n):
            scale = scales[r, j]
            code = np.floor(row[j] / scale + _BORDER)
            code = min(max(code, least), most)
            codes[r, j] = np.int8(code)
            error = (row[j] - code * scale) / factor[j, j]
            for k in range(j + 1, n):
                row[k] -= error * factor[j, k]


def solve(
    weight: np.ndarray,
    hessian: np.ndarray,
    scales: np.ndarray,
    *,
    bits: int,
    by_activation: bool,
    pool: ThreadPoolExecutor,
) -> np.ndarray:
    """Codes int8 [out, in] of `bits` bits, for `weight` float64 [out, in].

    `hessian` float64 [in, in] is the mean of xᵀx over the inputs, `scales` float64 [out, groups].
    `by_activation` rounds the columns with the largest inputs first. Inputs that are always zero
    leave their column's code at 0. NumericError if H is no second moment (Inf, NaN).
    """
    columns = weight.shape[1]
    moment, work = hessian.copy(), weight.copy()
    dead = moment.diagonal() == 0.0
    moment[dead, dead] = 1.0
    work[:, dead] = 0.0
    order = np.arange(columns)
    if by_activation:
        order = np.argsort(-moment.diagonal(), kind="stable")
    moment[np.arange(columns), np.arange(columns)] += DAMPING * float(moment.diagonal().mean())
    factor = np.ascontiguousarray(moment[np.ix_(order, order)])
    if not _upper_factor(factor):
        raise NumericError("GPTQ: the calibration text gives inputs that are not finite")
    wide = scales[:, order // (columns // scales.shape[1])]
    least, most = float(-(2 ** (bits - 1))), float(2 ** (bits - 1) - 1)
    shuffled = np.ascontiguousarray(work[:, order])
    found = np.empty(weight.shape, np.int8)

    def run(start: int) -> None:
        part = slice(start, start + _ROWS)
        _round_rows(shuffled[part], factor, wide[part], found[part], least, most)

    list(pool.map(run, range(0, len(weight), _ROWS)))
    codes = np.empty_like(found)
    codes[:, order] = found
    return codes
