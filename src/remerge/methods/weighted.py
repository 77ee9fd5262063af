"""The last pass of methods that are a sum of tensors with one factor each, per tensor or vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from remerge.arithmetic.combine import combine_chunk
from remerge.kernels.blocks import records
from remerge.methods.method import Inputs
from remerge.methods.stream import in_chunks

ONE = np.float32(1)


def weighted_sum(
    inputs: Inputs,
    factors: Sequence[float] | np.ndarray,
    *,
    divisor: np.float32 = ONE,
    from_base: bool = False,
    axis: int = 1,
    width: int | None = None,
) -> Iterator[np.ndarray]:
    """Yield the bytes of rn(Σ c_i·x_i / D), or of rn(b + Σ c_i·(x_i − b)) with `from_base`.

    Args:
        inputs: The tensor.
        factors: float64 [m], or [vectors, m] with one row for each row (axis 1) or column (axis 0)
            of the tensor; rounded to float32 here.
        divisor: D; 1 for none.
        from_base: Add task vectors to the base.
        axis: Along which axis the vectors lie, where there are several.
        width: Elements a row (axis 1), or vectors (axis 0); the last axis by default.
    """
    # A factor too large for float32 leads to a result that is refused by the kernel.
    with np.errstate(over="ignore"):
        table = np.atleast_2d(np.asarray(factors, np.float64)).astype(np.float32)
    models = [m.raw for m in inputs.models]
    base = inputs.base.raw if from_base and inputs.base is not None else models[0]
    tensors = records(models)
    width = max(inputs.row if width is None else width, 1)

    def run(part: np.void) -> int:
        return combine_chunk(base.record, from_base, tensors, table, width, axis, divisor, part)

    yield from in_chunks(inputs, run)
