"""SCE: select entries of largest variance, weigh donors by energy, erase minority signs.

Source: Wan et al. 2024, "FuseChat" (arXiv 2408.07990). Steps and rounding: `docs/contract.md`.
"""

from __future__ import annotations

import math

import numpy as np

from remerge.kernels.blocks import address, addresses, codes
from remerge.kernels.sce import energy_chunk, sce_chunk, variance_chunk
from remerge.kernels.sums import LANES
from remerge.methods.method import FLOOR, Chunks, Inputs, Method, Parameter, Values
from remerge.methods.selection import kth_largest
from remerge.methods.slerp import significant
from remerge.methods.stream import check, in_chunks, spans
from remerge.methods.task_vectors import INT8_MASK
from remerge.methods.trim import Trim
from remerge.tensors.dtypes import KERNEL_CODE


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
    where, types = addresses(models), codes(models)
    tensors = (address(inputs.base.raw.raw_u8), inputs.base.raw.code, where, types)

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
    chosen = (selects, trim.threshold, trim.last)
    lanes = np.zeros((len(models), LANES), np.float64)
    for begin, end in spans(inputs.size):
        check(inputs, energy_chunk(*tensors, *chosen, begin, end, lanes))
    energies = [math.fsum(row) / inputs.size for row in lanes.tolist()]
    weights = weights_of(energies, values["floor"])
    narrow = np.array(weights, np.float64).astype(np.float32)

    def run(begin: int, end: int, out: np.uint64) -> int:
        return sce_chunk(
            *tensors,
            *chosen,
            narrow,
            np.float32(values["floor"]),
            begin,
            end,
            out,
            KERNEL_CODE[inputs.dtype],
            inputs.block,
        )

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
