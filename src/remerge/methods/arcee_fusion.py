"""Arcee Fusion: take over the changes of largest importance, |δ| times the divergence of the row.

    y = rn(b + δ) where |δ|·K ≥ Q_2 + 1.5·(Q_3 − Q_1), else rn(b)

Source: Arcee AI, mergekit's arcee_fusion. The quartiles are those of all entries, not of a sample.
"""

from __future__ import annotations

import math

import numpy as np

from remerge.arithmetic.fusion import divergences, fuse_chunk, importance_chunk
from remerge.methods.method import Chunks, Inputs, Method, Values
from remerge.methods.selection import ascending
from remerge.methods.stream import check, in_chunks


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    if not inputs.size:
        return {}
    assert inputs.base is not None
    width = inputs.row
    tensors = (inputs.base.raw.record, inputs.models[0].raw.record)
    rows = inputs.size // width
    divergence = np.empty(rows, np.float32)
    check(inputs, divergences(*tensors, 0, rows, width, divergence))

    def importances(begin: int, end: int, out_f32: np.ndarray) -> None:
        check(inputs, importance_chunk(*tensors, divergence, width, begin, end, out_f32))

    places = [math.floor(quarter * (inputs.size - 1)) for quarter in (0.25, 0.5, 0.75)]
    bits = np.array(ascending(importances, inputs.size, places), np.uint32)
    first, second, third = bits.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        threshold = np.float32(second + np.float32(1.5) * np.float32(third - first))
    kept = np.zeros(1, np.int64)

    def run(part: np.void) -> int:
        return fuse_chunk(*tensors, divergence, width, threshold, part, kept)

    yield from in_chunks(inputs, run)
    return {"kept": int(kept[0])}


METHOD = Method(
    name="arcee_fusion",
    title="Arcee Fusion",
    source="mergekit",
    base="required",
    models=(1, 1),
    parameters=(),
    compute=compute,
)
