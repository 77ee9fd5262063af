"""The block formats once more, slow and obvious: the definition the kernels are held against.

One sub-block after the other, one float32 operation after the other, in NumPy scalars. Of the
simple types each takes 32 numbers, of the K types 256.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from remerge.quantize.gptq.solver import DAMPING

F = np.float32
Size = Callable[[np.float32], np.float32]


def _nearest(value: np.float32) -> int:
    return int((F(value + F(12582912.0)).view(np.int32) & 0x007FFFFF) - 0x00400000)


def _clamp(value: int, least: int, most: int) -> int:
    return max(least, min(most, value))


def _scale_of(value: np.float32) -> tuple[bytes, np.float32]:
    """A scale as it is stored, and its inverse; 0 where that is not finite."""
    inverse = F(F(1) / value)
    return np.float16(value).tobytes(), inverse if np.isfinite(inverse) else F(0)


def _signed_peak(x: np.ndarray) -> np.float32:
    """The number of largest magnitude, the first of several; +0 where all are zeros."""
    return max(x, key=abs) if x.any() else F(0)


def _nibbles(codes: list[int]) -> bytes:
    """Codes i and i + 16 share a byte: their low four bits."""
    pairs = zip(codes[:16], codes[16:], strict=True)
    return bytes((low & 15) | ((high & 15) << 4) for low, high in pairs)


def _fifth_bits(codes: list[int]) -> bytes:
    return sum((code >> 4) << i for i, code in enumerate(codes)).to_bytes(4, "little")


def q8_0(x: np.ndarray) -> bytes:
    scale, inverse = _scale_of(F(max(abs(v) for v in x) / F(127)))
    codes = []
    for v in x:
        size = abs(F(v * inverse))
        code = int(size) + (F(size - F(int(size))) >= F(0.5))
        codes.append(code if v >= 0 else -code)
    return scale + np.array(codes, np.int8).tobytes()


def q4_0(x: np.ndarray) -> bytes:
    scale, inverse = _scale_of(F(_signed_peak(x) / F(-8)))
    return scale + _nibbles([min(15, int(F(F(v * inverse) + F(8.5)))) for v in x])


def q5_0(x: np.ndarray) -> bytes:
    scale, inverse = _scale_of(F(_signed_peak(x) / F(-16)))
    codes = [min(31, int(F(F(v * inverse) + F(16.5)))) for v in x]
    return scale + _fifth_bits(codes) + _nibbles(codes)


def q5_1(x: np.ndarray) -> bytes:
    least = min(x)
    scale, inverse = _scale_of(F(F(max(x) - least) / F(31)))
    codes = [min(31, int(F(F(F(v - least) * inverse) + F(0.5)))) for v in x]
    return scale + np.float16(least).tobytes() + _fifth_bits(codes) + _nibbles(codes)


def q4_1(x: np.ndarray) -> bytes:
    least = min(x)
    scale, inverse = _scale_of(F(F(max(x) - least) / F(15)))
    codes = [min(15, int(F(F(F(v - least) * inverse) + F(0.5)))) for v in x]
    return scale + np.float16(least).tobytes() + _nibbles(codes)


def _mean_and_size(x: np.ndarray) -> list[np.float32]:
    """The weights of Q4_K and Q5_K."""
    squares = F(0)
    for v in x:
        squares = F(squares + v * v)
    mean = np.sqrt(F(squares / F(32)))
    return [F(mean + abs(v)) for v in x]


def _fit_with_offset(
    x: np.ndarray, w: list[np.float32], top: int, first: float, steps: int, size: Size
) -> tuple[np.float32, np.float32, list[int]]:
    """Scale, offset ≥ 0 and codes of the numbers of a sub-block; `size` is what an error counts."""
    least, most, sum_w, sum_x = x[0], x[0], w[0], F(w[0] * x[0])
    for v, weight in zip(x[1:], w[1:], strict=True):
        least, most = min(least, v), max(most, v)
        sum_w, sum_x = F(sum_w + weight), F(sum_x + weight * v)
    least = min(least, F(0))
    if most == least:
        return F(0), F(-least), [0] * len(x)
    inverse = F(F(top) / F(most - least))
    scale = F(F(1) / inverse)
    codes = [_clamp(_nearest(F(inverse * F(v - least))), 0, top) for v in x]
    best = F(0)
    for v, weight, code in zip(x, w, codes, strict=True):
        off = F(F(F(scale * F(code)) + least) - v)
        best = F(best + weight * size(off))
    for step in range(steps + 1):
        inverse = F(F(F(F(first) + F(F(0.1) * F(step))) + F(top)) / F(most - least))
        tried = [_clamp(_nearest(F(inverse * F(v - least))), 0, top) for v in x]
        sum_l, sum_ll, sum_xl = F(0), F(0), F(0)
        for v, weight, code in zip(x, w, tried, strict=True):
            weighted = F(weight * F(code))
            sum_l = F(sum_l + weighted)
            sum_ll = F(sum_ll + weighted * F(code))
            sum_xl = F(sum_xl + weighted * v)
        determinant = F(F(sum_w * sum_ll) - F(sum_l * sum_l))
        if not determinant > 0:
            continue
        new_scale = F(F(F(sum_w * sum_xl) - F(sum_x * sum_l)) / determinant)
        new_least = F(F(F(sum_ll * sum_x) - F(sum_l * sum_xl)) / determinant)
        if new_least > 0:
            new_scale, new_least = F(sum_xl / sum_ll), F(0)
        error = F(0)
        for v, weight, code in zip(x, w, tried, strict=True):
            off = F(F(F(new_scale * F(code)) + new_least) - v)
            error = F(error + weight * size(off))
        if error < best:
            best, scale, least, codes = error, new_scale, new_least, tried
    return scale, F(-least), codes


def _offset_block(x: np.ndarray, top: int, first: float, steps: int) -> tuple[bytes, list[int]]:
    """The 16 bytes of scales of a Q4_K or Q5_K block, and its 256 codes."""
    found = []
    for part in x.reshape(8, 32):
        weights = _mean_and_size(part)
        found.append(_fit_with_offset(part, weights, top, first, steps, lambda off: F(off * off)))
    peaks = [max(F(0), *(entry[i] for entry in found)) for i in (0, 1)]
    sixes = []
    for i, peak in enumerate(peaks):
        inverse = F(F(63) / peak) if peak > 0 else F(0)
        sixes.append([min(63, _nearest(F(inverse * entry[i])) & 255) for entry in found])
    halves = [np.float16(F(peak / F(63))) for peak in peaks]
    packed = bytearray(12)
    for k, (scale, offset) in enumerate(zip(*sixes, strict=True)):
        if k < 4:
            packed[k], packed[k + 4] = scale, offset
        else:
            packed[k + 4] = (scale & 15) | ((offset & 15) << 4)
            packed[k - 4] |= (scale >> 4) << 6
            packed[k] |= (offset >> 4) << 6
    codes: list[int] = []
    for k in range(8):
        d, m = (F(F(half) * F(six[k])) for half, six in zip(halves, sixes, strict=True))
        if d == 0:
            codes += found[k][2]
        else:
            codes += [_clamp(_nearest(F(F(v + m) / d)), 0, top) for v in x[32 * k : 32 * k + 32]]
    return b"".join(half.tobytes() for half in halves) + bytes(packed), codes


def _low_nibbles(codes: list[int]) -> bytes:
    out = bytearray()
    for start in range(0, 256, 64):
        pairs = zip(codes[start : start + 32], codes[start + 32 : start + 64], strict=True)
        out += bytes((low & 15) | ((high & 15) << 4) for low, high in pairs)
    return bytes(out)


def _low_pairs(codes: list[int]) -> bytes:
    """The low two bits of 256 codes, four codes 32 places apart a byte."""
    low = [code & 3 for code in codes]
    return bytes(
        low[h + i] | low[h + 32 + i] << 2 | low[h + 64 + i] << 4 | low[h + 96 + i] << 6
        for h in (0, 128)
        for i in range(32)
    )


def q2_k(x: np.ndarray) -> bytes:
    parts = x.reshape(16, 16)
    found = [_fit_with_offset(p, [abs(v) for v in p], 3, -0.5, 15, abs) for p in parts]
    halves, fours = [], []
    for i in (0, 1):
        peak = max(F(0), *(entry[i] for entry in found))
        inverse = F(F(15) / peak) if peak > 0 else F(0)
        fours.append([_nearest(F(inverse * entry[i])) for entry in found])
        halves.append(np.float16(F(peak / F(15))))
    codes: list[int] = []
    for k, part in enumerate(parts):
        d, m = (F(F(half) * F(four[k])) for half, four in zip(halves, fours, strict=True))
        codes += found[k][2] if d == 0 else [_clamp(_nearest(F(F(v + m) / d)), 0, 3) for v in part]
    packed = bytes(scale | offset << 4 for scale, offset in zip(*fours, strict=True))
    return packed + _low_pairs(codes) + b"".join(half.tobytes() for half in halves)


def _descend(x: np.ndarray) -> tuple[np.float32, list[int]]:
    """Scale and codes (0 to 7) of 16 numbers, changed one after the other while that helps."""
    peak = max(x, key=abs)
    if abs(peak) < F(1e-15):
        return F(0), [0] * 16
    inverse = F(F(-4) / peak)
    codes = [_clamp(_nearest(F(inverse * v)), -4, 3) for v in x]
    sum_lx, sum_ll = F(0), F(0)
    for v, code in zip(x, codes, strict=True):
        weight = F(v * v)
        sum_lx = F(sum_lx + F(weight * v) * F(code))
        sum_ll = F(sum_ll + F(weight * F(code)) * F(code))
    for _ in range(5):
        for i, v in enumerate(x):
            weight = F(v * v)
            lx = F(sum_lx - F(F(weight * v) * F(codes[i])))
            if not lx > 0:
                continue
            ll = F(sum_ll - F(F(weight * F(codes[i])) * F(codes[i])))
            tried = _clamp(_nearest(F(F(v * ll) / lx)), -4, 3)
            lx = F(lx + F(F(weight * v) * F(tried)))
            ll = F(ll + F(F(weight * F(tried)) * F(tried)))
            gain = F(F(lx * lx) * sum_ll) > F(F(sum_lx * sum_lx) * ll)
            if tried != codes[i] and ll > 0 and gain:
                codes[i], sum_lx, sum_ll = tried, lx, ll
    return F(sum_lx / sum_ll) if sum_ll > 0 else F(0), [code + 4 for code in codes]


def q3_k(x: np.ndarray) -> bytes:
    parts = x.reshape(16, 16)
    found = [_descend(part) for part in parts]
    peak = max((scale for scale, _ in found), key=abs)
    if peak:
        inverse = F(F(-32) / peak)
        half = np.float16(F(F(1) / inverse))
        nearest = [_nearest(F(inverse * scale)) for scale, _ in found]
        small = [_clamp((n + 128) % 256 - 128, -32, 31) + 32 for n in nearest]
    else:
        half, small = np.float16(0), [0] * 16
    codes: list[int] = []
    for k, part in enumerate(parts):
        d = F(F(half) * F(small[k] - 32))
        codes += found[k][1] if d == 0 else [_clamp(_nearest(F(v / d)), -4, 3) + 4 for v in part]
    third = bytes(sum((codes[32 * k + i] >> 2) << k for k in range(8)) for i in range(32))
    packed = bytearray(12)
    for k, code in enumerate(small):
        packed[k % 8] |= (code & 15) << (4 * (k // 8))
        packed[8 + k % 4] |= (code >> 4) << (2 * (k // 4))
    return third + _low_pairs(codes) + bytes(packed) + half.tobytes()


def q4_k(x: np.ndarray) -> bytes:
    scales, codes = _offset_block(x, 15, -1.0, 20)
    return scales + _low_nibbles(codes)


def q5_k(x: np.ndarray) -> bytes:
    scales, codes = _offset_block(x, 31, -0.5, 15)
    fifth = bytes(sum((codes[32 * k + i] >> 4) << k for k in range(8)) for i in range(32))
    return scales + fifth + _low_nibbles(codes)


def _fit(x: np.ndarray) -> tuple[np.float32, list[int]]:
    """Scale and codes (0 to 63) of 16 numbers, as Q6_K searches them."""
    peak = max(x, key=abs)
    if abs(peak) < F(1e-15):
        return F(0), [0] * 16
    scale, best, codes = F(0), F(0), [0] * 16
    for step in (0, *range(-9, 0), *range(1, 10)):
        inverse = F(F(-F(F(32) + F(F(0.1) * F(step)))) / peak)
        tried = [_clamp(_nearest(F(inverse * v)), -32, 31) for v in x]
        sum_lx, sum_ll = F(0), F(0)
        for v, code in zip(x, tried, strict=True):
            weight = F(v * v)
            sum_lx = F(sum_lx + F(weight * v) * F(code))
            sum_ll = F(sum_ll + F(weight * F(code)) * F(code))
        if step == 0:
            scale = F(sum_lx / sum_ll) if sum_ll else F(0)
        elif sum_ll > 0 and F(sum_lx * sum_lx) > F(best * sum_ll):
            scale = F(sum_lx / sum_ll)
        else:
            continue
        best, codes = F(scale * sum_lx), [code + 32 for code in tried]
    return scale, codes


def q6_k(x: np.ndarray) -> bytes:
    found = [_fit(x[16 * k : 16 * k + 16]) for k in range(16)]
    peak = max((scale for scale, _ in found), key=abs)
    if abs(peak) < F(1e-15):
        return bytes(210)
    inverse = F(F(-128) / peak)
    half = np.float16(F(F(1) / inverse))
    small = [min(127, _nearest(F(inverse * scale))) for scale, _ in found]
    codes: list[int] = []
    for k, (_, searched) in enumerate(found):
        d = F(F(half) * F(small[k]))
        part = x[16 * k : 16 * k + 16]
        codes += searched if d == 0 else [_clamp(_nearest(F(v / d)), -32, 31) + 32 for v in part]
    low, high = bytearray(), bytearray()
    for h in (0, 128):
        a, b, c, d = (codes[h + 32 * k : h + 32 * k + 32] for k in range(4))
        low += bytes((p & 15) | ((q & 15) << 4) for p, q in zip(a, c, strict=True))
        low += bytes((p & 15) | ((q & 15) << 4) for p, q in zip(b, d, strict=True))
        rows = zip(a, b, c, d, strict=True)
        high += bytes(
            (p >> 4) | (q >> 4) << 2 | (r >> 4) << 4 | (s >> 4) << 6 for p, q, r, s in rows
        )
    return bytes(low) + bytes(high) + np.array(small, np.int8).tobytes() + half.tobytes()


LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _level(value: np.float32) -> int:
    """The code of the nearest level, the upper one of two equally near."""
    if value <= LEVELS[0] or value >= LEVELS[15]:
        return 0 if value <= LEVELS[0] else 15
    above = next(i for i, level in enumerate(LEVELS) if value < level)
    low, high = F(value - F(LEVELS[above - 1])), F(F(LEVELS[above]) - value)
    return above - 1 if low < high else above


def _fit_levels(x: np.ndarray) -> np.float32:
    """The scale of 32 numbers that IQ4_NL and IQ4_XS find."""
    peak = max(x, key=abs)
    if abs(peak) < F(1e-15):
        return F(0)
    inverses = [F(F(1) / F(F(-peak) / F(LEVELS[0])))]
    inverses += [F(F(step + LEVELS[0]) / peak) for step in range(-7, 8)]
    scale = best = F(0)
    for position, inverse in enumerate(inverses):
        sum_qx, sum_qq = F(0), F(0)
        for v in x:
            weighted = F(F(v * v) * F(LEVELS[_level(F(inverse * v))]))
            sum_qx = F(sum_qx + F(weighted * v))
            sum_qq = F(sum_qq + F(weighted * F(LEVELS[_level(F(inverse * v))])))
        if position == 0 or (sum_qq > 0 and F(sum_qx * sum_qx) > F(best * sum_qq)):
            scale = F(sum_qx / sum_qq)
            best = F(scale * sum_qx)
    return scale


def _levels(x: np.ndarray, scale: np.float32) -> bytes:
    inverse = F(F(1) / scale) if scale else F(0)
    return _nibbles([_level(F(inverse * v)) for v in x])


def iq4_nl(x: np.ndarray) -> bytes:
    scale = _fit_levels(x)
    return np.float16(scale).tobytes() + _levels(x, scale)


def iq4_xs(x: np.ndarray) -> bytes:
    parts = x.reshape(8, 32)
    scales = [_fit_levels(part) for part in parts]
    whole = F(-max(scales, key=abs) / F(32))
    inverse = F(F(1) / whole) if whole else F(0)
    sixes = [_clamp(_nearest(F(inverse * scale)), -32, 31) for scale in scales]
    codes = [_levels(p, F(whole * F(six))) for p, six in zip(parts, sixes, strict=True)]
    high = sum(((six + 32) >> 4) << (2 * k) for k, six in enumerate(sixes))
    low = [(six + 32) & 15 for six in sixes]
    packed = bytes(a | b << 4 for a, b in zip(low[::2], low[1::2], strict=True))
    return np.float16(whole).tobytes() + high.to_bytes(2, "little") + packed + b"".join(codes)


def gptq(
    weight: np.ndarray, hessian: np.ndarray, scales: np.ndarray, order: np.ndarray, bits: int
) -> np.ndarray:
    """GPTQ as the paper tells it: invert, factor, round column by column. Codes int8 [out, in]."""
    moment = hessian + DAMPING * hessian.diagonal().mean() * np.eye(len(hessian))
    inverse = np.linalg.inv(moment[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T
    work, codes = weight[:, order].copy(), np.zeros(weight.shape, np.int8)
    for j, column in enumerate(order):
        scale = scales[:, column // (weight.shape[1] // scales.shape[1])]
        code = np.clip(np.round(work[:, j] / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        codes[:, column] = code
        error = (work[:, j] - code * scale) / upper[j, j]
        work[:, j:] -= np.outer(error, upper[j, j:])
    return codes
