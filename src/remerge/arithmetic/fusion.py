"""Arcee Fusion: importance of a change by the divergence of its row, and the merge of the largest.

EXP and LOG are sequences of float64 operations, the same on every machine; `docs/contract.md` has
them in full.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from remerge.arithmetic.sums import fsum8
from remerge.kernels.blocks import (
    BAD_INPUT,
    OK,
    OVERFLOW,
    RECORDS,
    all_finite,
    narrow_block,
    subtract_block,
    widen_block,
)
from remerge.kernels.compiled import kernel

_BLOCK = 512
_HIGH = float.fromhex("0x1.62e42feep-1")
_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_LOG2E = float.fromhex("0x1.71547652b82fep+0")
_ROOT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")
_EXP = tuple(1.0 / math.factorial(i) for i in range(14))
_LOG = tuple(1.0 / (2 * i + 1) for i in range(11))

_inline = njit(inline="always", error_model="numpy")


@_inline
def exp_f64(x):
    """EXP of the contract, for x ≤ 0."""
    k = np.rint(x * _LOG2E)
    r = (x - k * _HIGH) - k * _LOW
    total = _EXP[13]
    for i in range(12, -1, -1):
        total = total * r + _EXP[i]
    # 2^k from its bits: k ≥ −1022 where the result counts.
    scale = np.int64((np.int64(max(k, -1022.0)) + 1023) << 52).view(np.float64)
    return 0.0 if x < -708.0 else total * scale


@_inline
def log_f64(y):
    """LOG of the contract, for positive normal y."""
    m, e = math.frexp(y)
    if m < _ROOT_HALF:
        m = 2.0 * m
        e = e - 1
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    total = _LOG[10]
    for i in range(9, -1, -1):
        total = total * z + _LOG[i]
    return ((2.0 * s) * total + np.float64(e) * _LOW) + np.float64(e) * _HIGH


@_inline
def _largest(tensor, begin, width, values):
    """The largest of a row, and whether all are finite."""
    top = np.float32(-np.inf)
    fine = True
    for offset in range(0, width, _BLOCK):
        count = min(_BLOCK, width - offset)
        widen_block(tensor, begin + offset, count, values)
        fine &= all_finite(values, count)
        for j in range(count):
            top = max(top, values[j])
    return top, fine


@kernel("int64(tensor, tensor, int64, int64, int64, float32[::1])", **RECORDS)
def divergences(base, model, begin, rows, width, out_f32):
    """K of each of `rows` rows of `width` from element `begin` on; OK or BAD_INPUT."""
    p_f64 = np.empty(width, np.float64)
    q_f64 = np.empty(width, np.float64)
    values = np.empty(_BLOCK, np.float32)
    lanes = np.empty((3, 8), np.float64)
    for row in range(rows):
        at = begin + row * width
        top_p, fine_p = _largest(model, at, width, values)
        top_q, fine_q = _largest(base, at, width, values)
        if not fine_p or not fine_q:
            return BAD_INPUT
        lanes[:] = 0.0
        for offset in range(0, width, _BLOCK):
            count = min(_BLOCK, width - offset)
            widen_block(model, at + offset, count, values)
            for j in range(count):
                e = exp_f64(np.float64(values[j]) - np.float64(top_p))
                p_f64[offset + j] = e
                lanes[0, (offset + j) % 8] += e
            widen_block(base, at + offset, count, values)
            for j in range(count):
                e = exp_f64(np.float64(values[j]) - np.float64(top_q))
                q_f64[offset + j] = e
                lanes[1, (offset + j) % 8] += e
        sum_p = fsum8(lanes[0])
        sum_q = fsum8(lanes[1])
        for j in range(width):
            p = p_f64[j] / sum_p + 1e-8
            q = q_f64[j] / sum_q + 1e-8
            lanes[2, j % 8] += p * log_f64(p / q)
        divergence = fsum8(lanes[2])
        out_f32[row] = np.float32(max(0.0, divergence))
    return OK


@kernel("int64(tensor, tensor, float32[::1], int64, int64, int64, float32[::1])", **RECORDS)
def importance_chunk(base, model, divergence, width, begin, end, out_f32):
    """Compute |δ|·K of elements [begin, end); OK or BAD_INPUT."""
    base_f32 = np.empty(_BLOCK, np.float32)
    delta_f32 = np.empty(_BLOCK, np.float32)
    for start in range(begin, end, _BLOCK):
        count = min(_BLOCK, end - start)
        widen_block(base, start, count, base_f32)
        if not subtract_block(model, start, count, base_f32, delta_f32):
            return BAD_INPUT
        for j in range(count):
            k = divergence[(start + j) // width]
            out_f32[start - begin + j] = np.float32(np.float32(abs(delta_f32[j])) * k)
    return OK


@kernel("int64(tensor, tensor, float32[::1], int64, float32, part, int64[::1])", **RECORDS)
def fuse_chunk(base, model, divergence, width, threshold, part, kept):
    """Merge a part: b + δ where |δ|·K ≥ threshold, else b; kept[0] counts the first."""
    begin, end, block = part.begin, part.end, part.block
    base_f32 = np.empty(block, np.float32)
    delta_f32 = np.empty(block, np.float32)
    for start in range(begin, end, block):
        count = min(block, end - start)
        widen_block(base, start, count, base_f32)
        if not subtract_block(model, start, count, base_f32, delta_f32):
            return BAD_INPUT
        for j in range(count):
            k = divergence[(start + j) // width]
            inside = np.float32(np.float32(abs(delta_f32[j])) * k) >= threshold
            kept[0] += 1 if inside else 0
            sum_f32 = np.float32(base_f32[j] + delta_f32[j])
            base_f32[j] = sum_f32 if inside else base_f32[j]
        if not narrow_block(base_f32, count, part, start - begin):
            return OVERFLOW
    return OK
