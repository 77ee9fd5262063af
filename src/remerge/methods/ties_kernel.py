"""The elect and merge steps of TIES over blocks that stay in the processor's first cache.

>>> merge_chunk(base.record, records(models), donors, rule, part, gram, projections, counts)

Per element, with δ̂ the trimmed task vectors in recipe order and every operation one float32
rounding:

    s = Σ w·δ̂                       elected sign: positive if s ≥ 0
    μ = Σ_agreeing w·δ̂ / Σ_agreeing w     (0 for an empty set; the division is optional)
    y = rn(b + λ·μ)

A negative weight negates its donor's task vector: w is |w| above, and δ̂ is −δ̂.

Every loop is over one block and few arrays, without branches, so that the compiler makes vectors of
it. Source: Yadav et al. 2023 (arXiv 2306.01708), section 3.2, steps 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from remerge.kernels.blocks import (
    BAD_INPUT,
    OK,
    OVERFLOW,
    RECORDS,
    magnitude_bits,
    narrow_block,
    subtract_block,
    widen_block,
)
from remerge.kernels.compiled import kernel
from remerge.kernels.halves import u32
from remerge.methods.trim import Trim

#: Diagnostics look at one run of SAMPLE_RUN elements (whole blocks of any step) in every
#: SAMPLE_STRIDE of a large tensor.
SAMPLE_RUN = 4096
SAMPLE_STRIDE = 128
LANES = 8
#: What is kept of a donor (its `Trim`), the magnitude of its weight, and whether that is negative.
DONOR = np.dtype(
    [
        ("threshold", np.uint32),
        ("last", np.int64),
        ("weight", np.float32),
        ("negated", np.bool_),
    ],
    align=True,
)
#: λ, and how the merged task vector is made.
#: normalize       divide by the sum of the weights that agree
#: elect_by_count  elect by the number of positive and negative entries, not by their sum
#: observe_all     `is_observed_whole(size)` of the whole tensor
RULE = np.dtype(
    [
        ("lam", np.float32),
        ("normalize", np.bool_),
        ("elect_by_count", np.bool_),
        ("observe_all", np.bool_),
    ],
    align=True,
)

_inline = njit(inline="always", error_model="numpy")
#: What runs on a sample only stays a function of its own, out of the way of the hot loops.
_apart = njit(nogil=True, error_model="numpy")


def donor_records(trims: Sequence[Trim], weights: Sequence[float]) -> np.ndarray:
    """DONOR [m] from the donors' trims and float64 weights."""
    donors = np.zeros(len(trims), DONOR)
    donors["threshold"] = [trim.threshold for trim in trims]
    donors["last"] = [trim.last for trim in trims]
    donors["weight"] = np.abs(weights)
    donors["negated"] = np.less(weights, 0)
    return donors


def rule_record(lam: float, normalize: bool, elect: str, size: int) -> np.void:
    """The RULE for a tensor of `size` elements; `elect` is "sum" or "count"."""
    return np.array([(lam, normalize, elect == "count", is_observed_whole(size))], RULE)[0]


def is_observed_whole(size: int) -> bool:
    """Whether a tensor of `size` elements is small enough to be observed in full."""
    return size <= SAMPLE_RUN * SAMPLE_STRIDE // 2


@_inline
def _drop_ties(delta_f32, count, threshold, first_dropped):
    """Zero the entries at the threshold from `first_dropped` on."""
    for j in range(max(first_dropped, 0), count):
        equal = magnitude_bits(delta_f32[j]) == threshold
        delta_f32[j] = np.float32(0.0) if equal else delta_f32[j]


@_inline
def _negate(delta_f32, count):
    """Turn every sign."""
    for j in range(count):
        delta_f32[j] = np.float32(-delta_f32[j])


@_inline
def _trim_and_add(delta_f32, count, cutoff, weight, total_f32):
    """Zero entries below the cutoff; total += w·δ̂."""
    for j in range(count):
        delta = np.float32(delta_f32[j])
        keep = magnitude_bits(delta) >= cutoff
        kept = delta if keep else np.float32(0.0)
        delta_f32[j] = kept
        total_f32[j] = np.float32(total_f32[j] + np.float32(weight * kept))


@_inline
def _trim_and_count(delta_f32, count, cutoff, total_f32):
    """Zero entries below the cutoff; total += sign of δ̂."""
    zero = np.float32(0.0)
    one = np.float32(1.0)
    for j in range(count):
        delta = np.float32(delta_f32[j])
        keep = magnitude_bits(delta) >= cutoff
        kept = delta if keep else zero
        delta_f32[j] = kept
        sign = (one if kept > zero else zero) - (one if kept < zero else zero)
        total_f32[j] = np.float32(total_f32[j] + sign)


@_inline
def _add_agreeing(delta_f32, count, weight, total_f32, sum_f32, divisor_f32):
    """Add to sum and divisor where δ̂ has the elected sign; a zero has neither."""
    zero = np.float32(0.0)
    for j in range(count):
        delta = np.float32(delta_f32[j])
        # Positive and positive, or the negatives: by one comparison of the number with its sign
        # turned. A total that is NaN elects negative, as `s ≥ 0` does.
        turned = delta if total_f32[j] >= zero else np.float32(-delta)
        agrees = turned > zero
        term = np.float32(weight * delta)
        sum_f32[j] = np.float32(sum_f32[j] + (term if agrees else zero))
        divisor_f32[j] = np.float32(divisor_f32[j] + (weight if agrees else zero))


@_apart
def _observe_task_vectors(delta_f32, count, gram):
    """Add Σ δ_i·δ_k of the untrimmed task vectors to `gram`.

    In float64 by LANES partial sums of fixed membership, so that neither vectors nor the size of a
    block change the order of the sums.
    """
    models = delta_f32.shape[0]
    for a in range(models):
        for b in range(a, models):
            left = delta_f32[a]
            right = delta_f32[b]
            lanes = gram[a * models + b]
            whole = count - count % LANES
            for j in range(0, whole, LANES):
                for lane in range(LANES):
                    lanes[lane] += np.float64(left[j + lane]) * np.float64(right[j + lane])
            for j in range(whole, count):
                lanes[j - whole] += np.float64(left[j]) * np.float64(right[j])


@_apart
def _observe_merge(
    delta_f32, total_f32, merged_f32, divisor_f32, donors, count, flags, counts, projections
):
    """Count survivors and sign conflicts; project each donor's share on the merged task vector.

    The counts are integers and the projections are summed like `gram`.
    """
    zero = np.float32(0.0)
    models = delta_f32.shape[0]
    whole = count - count % LANES
    ups, downs = flags[0], flags[1]
    for j in range(count):
        ups[j] = 0
        downs[j] = 0
    for i in range(models):
        delta = delta_f32[i]
        survivors = 0
        for j in range(count):
            ups[j] |= u32(delta[j] > zero)
            downs[j] |= u32(delta[j] < zero)
            survivors += 1 if delta[j] != zero else 0
        counts[3 + i] += survivors
        lanes = projections[i]
        weight = np.float64(donors[i].weight)
        for j in range(0, count, LANES):
            for lane in range(LANES if j < whole else count - whole):
                at = j + lane
                turned = delta[at] if total_f32[at] >= zero else np.float32(-delta[at])
                divisor = divisor_f32[at]
                agrees = turned > zero and divisor != zero
                share = weight * np.float64(delta[at])
                share = share / np.float64(divisor if agrees else np.float32(1.0))
                lanes[lane] += share * np.float64(merged_f32[at]) if agrees else 0.0
    changed = 0
    conflicts = 0
    for j in range(count):
        changed += ups[j] | downs[j]
        conflicts += ups[j] & downs[j]
    counts[0] += count
    counts[1] += changed
    counts[2] += conflicts


@kernel(
    "int64(tensor, tensor[::1], donor[::1], rule, part, float64[:,::1], float64[:,::1],"
    " int64[::1])",
    **RECORDS,
    donor=DONOR,
    rule=RULE,
)
def merge_chunk(base, models, donors, rule, part, gram, projections, counts):
    """Merge a part of one tensor.

    models  TENSOR [m], the donors' tensors
    donors  DONOR [m]
    part    begins at a multiple of SAMPLE_RUN, its steps are a multiple of 8 that divides it
    gram, projections, counts
            diagnostics, added to. float64 [m·m, LANES]: partial sums of δ_i·δ_k for i ≤ k;
            float64 [m, LANES]: those of each donor's part of μ, times μ; int64 [3 + m]: entries
            seen, entries that any donor changes, entries on which survivors disagree in sign, and
            survivors by donor

    Returns OK, BAD_INPUT (some δ is NaN or Inf) or OVERFLOW (some y is beyond the output type).
    """
    begin, end, block = part.begin, part.end, part.block
    lam, normalize = rule.lam, rule.normalize
    m = donors.size
    base_f32 = np.empty(block, np.float32)
    delta_f32 = np.empty((m, block), np.float32)
    total_f32 = np.empty(block, np.float32)
    sum_f32 = np.empty(block, np.float32)
    divisor_f32 = np.empty(block, np.float32)
    flags = np.empty((2, block), np.uint32)
    zero = np.float32(0.0)
    one = np.float32(1.0)
    for start in range(begin, end, block):
        count = min(block, end - start)
        observed = rule.observe_all or (start // SAMPLE_RUN) % SAMPLE_STRIDE == 0
        widen_block(base, start, count, base_f32)
        for i in range(m):
            delta = delta_f32[i]
            if not subtract_block(models[i], start, count, base_f32, delta):
                return BAD_INPUT
        if observed:
            _observe_task_vectors(delta_f32, count, gram)
        for j in range(count):
            total_f32[j] = zero
            sum_f32[j] = zero
            divisor_f32[j] = zero
        for i in range(m):
            delta = delta_f32[i]
            cutoff = donors[i].threshold
            last = donors[i].last
            if donors[i].negated:
                _negate(delta, count)
            if start > last:
                cutoff = u32(cutoff + u32(1))
            elif start + count - 1 > last:
                _drop_ties(delta, count, cutoff, last + 1 - start)
            if rule.elect_by_count:
                _trim_and_count(delta, count, cutoff, total_f32)
            else:
                _trim_and_add(delta, count, cutoff, donors[i].weight, total_f32)
        for i in range(m):
            _add_agreeing(delta_f32[i], count, donors[i].weight, total_f32, sum_f32, divisor_f32)
        if not normalize:
            for j in range(count):
                divisor_f32[j] = one
        for j in range(count):
            divisor = divisor_f32[j]
            # Where nobody agrees (or with weight 0) the sum is 0, and so is the mean.
            mean = np.float32(sum_f32[j] / (one if divisor == zero else divisor))
            sum_f32[j] = mean
            base_f32[j] = np.float32(base_f32[j] + np.float32(lam * mean))
        if observed:
            _observe_merge(
                delta_f32,
                total_f32,
                sum_f32,
                divisor_f32,
                donors,
                count,
                flags,
                counts,
                projections,
            )
        if not narrow_block(base_f32, count, part, start - begin):
            return OVERFLOW
    return OK
