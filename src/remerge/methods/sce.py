"""SCE: select entries of largest variance, weigh donors by energy, erase minority signs.

Source: Wan et al. 2024, "FuseChat" (arXiv 2408.07990). Steps and rounding: `docs/contract.md`.
"""

from __future__ import annotations

import math

import numpy as np

from remerge.arithmetic.sce import SELECTION, energy_chunk, sce_chunk, variance_chunk
from remerge.arithmetic.sums import LANES
from remerge.kernels.blocks import records
from remerge.methods.method import FLOOR, Chunks, Inputs, Method, Parameter, Values
from remerge.methods.selection import kth_largest
from remerge.methods.slerp import significant
from remerge.methods.stream import check, in_chunks, spans
from remerge.methods.task_vectors import INT8_MASK
from remerge.methods.trim import Trim


def weights_of(energies: list[float], floor: float) -> list[float]:
    """The donors' weights from the mean squares of what was selected of them."""
    whole = math.fsum(energies)
    if whole == 0.0 or whole < floor:
        return [1.0 / len(energies)] * len(energies)
    return [energy / whole for energy in energies]


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    if not inputs.size:
        return {}
    assert inputs.base is not None
    models = [model.raw for model in inputs.models]
    tensors = (inputs.base.raw.record, records(models))

    def variances(begin: int, end: int, out_f32: np.ndarray) -> None:
        check(inputs, variance_chunk(*tensors, begin, end, out_f32))

    selects, kept = values["select_topk"] < 1.0, inputs.size
    trim = Trim(0, inputs.size)
    if selects:
        buffer = np.empty(min(inputs.size, 1 << 18), np.float32)
        changed = 0
        for begin, end in spans(inputs.size):
            variances(begin, end, buffer[: end - begin])
            changed += int(np.count_nonzero(buffer[: end - begin]))
        kept = math.floor(changed * values["select_topk"])
        trim = kth_largest(variances, inputs.size, kept)
    selection = np.array([(selects, trim.threshold, trim.last)], SELECTION)[0]
    lanes = np.zeros((len(models), LANES), np.float64)
    for begin, end in spans(inputs.size):
        check(inputs, energy_chunk(*tensors, selection, begin, end, lanes))
    energies = [math.fsum(row) / inputs.size for row in lanes.tolist()]
    weights = weights_of(energies, values["floor"])
    narrow = np.array(weights, np.float64).astype(np.float32)
    floor = np.float32(values["floor"])

    def run(part: np.void) -> int:
        return sce_chunk(*tensors, selection, narrow, floor, part)

    yield from in_chunks(inputs, run)
    return {"kept": kept, "weights": [significant(weight) for weight in weights]}


METHOD = Method(
    name="sce",
    title="SCE",
    source="Wan et al. 2024, arXiv 2408.07990",
    base="required",
    models=(1, None),
    parameters=(
        INT8_MASK,
        Parameter(
            "select_topk", "float", "share of entries to select", default=1.0, low=0.0, high=1.0
        ),
        FLOOR,
    ),
    compute=compute,
)
