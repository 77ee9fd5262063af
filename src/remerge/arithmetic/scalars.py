"""Scalar functions that give the float64 nearest to the mathematical value, on every machine.

>>> sin(0.5), cos(0.5), acos(0.25)

Math libraries differ in the last bit. Here a value is computed with integers to so many bits that
its rounding is certain, and to more where it is not (Ziv 1991). By Lindemann's theorem no value of
these functions at a float64 lies on a border between two float64, but for sin(0) = 0, cos(0) = 1
and acos(1) = 0, so the search ends.
"""

from __future__ import annotations

import math
from functools import cache

_FIRST_BITS = 160


def sin(x: float) -> float:
    """The float64 nearest to sin(x), for |x| ≤ 8."""
    if x == 0.0:
        return x
    return _certain(lambda bits: _sin_cos(x, bits)[0])


def cos(x: float) -> float:
    """The float64 nearest to cos(x), for |x| ≤ 8."""
    if x == 0.0:
        return 1.0
    return _certain(lambda bits: _sin_cos(x, bits)[1])


def acos(x: float) -> float:
    """The float64 nearest to arccos(x), for −1 ≤ x ≤ 1."""
    if x == 1.0:
        return 0.0
    return _certain(lambda bits: _acos(x, bits))


def _certain(compute):
    """Round `compute(bits)` an integer in units of 2⁻ᵇⁱᵗˢ with an error below 2¹⁶ of them."""
    bits = _FIRST_BITS
    while True:
        value = compute(bits)
        low, high = _rounded(value - (1 << 16), bits), _rounded(value + (1 << 16), bits)
        if low == high:
            return low
        bits *= 2


def _rounded(value: int, bits: int) -> float:
    # Division of integers is correctly rounded by the language.
    return value / (1 << bits)


def _fixed(x: float, bits: int) -> int:
    """Give x in units of 2⁻ᵇⁱᵗˢ, cut towards minus infinity."""
    numerator, denominator = x.as_integer_ratio()
    return (numerator << bits) // denominator


def _sin_cos(x: float, bits: int) -> tuple[int, int]:
    """Give sin and cos of x in units of 2⁻ᵇⁱᵗˢ, by Taylor series after halving x six times.

    For tiny x so many bits are added that sin(x) has enough of them. The error of a sum of n terms
    is below n units; each doubling multiplies it by less than eight.
    """
    extra = 40
    work = bits + extra
    angle = _fixed(x, work) >> 6
    square = (angle * angle) >> work
    one = 1 << work
    sine, term, n = angle, angle, 1
    while term not in (0, -1):
        term = -((term * square) >> work) // ((n + 1) * (n + 2))
        sine += term
        n += 2
    cosine, term, n = one, one, 0
    while term not in (0, -1):
        term = -((term * square) >> work) // ((n + 1) * (n + 2))
        cosine += term
        n += 2
    for _ in range(6):
        sine, cosine = (sine * cosine) >> (work - 1), one - ((sine * sine) >> (work - 1))
    return sine >> extra, cosine >> extra


def _acos(x: float, bits: int) -> int:
    """Give arccos of x in units of 2⁻ᵇⁱᵗˢ: Newton's method on sin(θ/2) = √((1 − x)/2).

    Near 1 the angle goes as the root of 1 − x, which is exact; so no digits are lost there.
    """
    if x < 0.0:
        return _pi(bits) - _acos(-x, bits)
    work = bits + 80
    half = ((1 << work) - _fixed(x, work)) >> 1
    target = math.isqrt(half << work)
    # A first value of 50 bits, whose last bits may be any; three steps then give more than 400.
    guess = math.asin(math.sqrt((1.0 - x) / 2.0))
    angle = _fixed(guess, work)
    known = 40
    while known < 2 * work:
        sine, cosine = _sin_cos_fixed(angle, work)
        angle -= ((sine - target) << work) // cosine
        known *= 2
    return angle >> 79


def _sin_cos_fixed(angle: int, work: int) -> tuple[int, int]:
    """Give sin and cos of an angle in units of 2⁻ʷᵒʳᵏ, below π/2."""
    square = (angle * angle) >> work
    sine, term, n = angle, angle, 1
    while term not in (0, -1):
        term = -((term * square) >> work) // ((n + 1) * (n + 2))
        sine += term
        n += 2
    cosine = math.isqrt((1 << (2 * work)) - sine * sine)
    return sine, cosine


@cache
def _pi(bits: int) -> int:
    """π in units of 2⁻ᵇⁱᵗˢ, by Machin's formula 16·atan(1/5) − 4·atan(1/239)."""
    work = bits + 40

    def arctan_of_inverse(n: int) -> int:
        power = total = (1 << work) // n
        divisor, sign = 3, -1
        while power:
            power //= n * n
            total += sign * (power // divisor)
            divisor, sign = divisor + 2, -sign
        return total

    return (16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)) >> 40
