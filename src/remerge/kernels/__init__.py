"""Compiled arithmetic, defined to the bit.

Every kernel is ordinary Python compiled by numba without fast-math: IEEE-754 operations in the
order written, never contracted into fused multiply-adds, never reassociated. Whatever the
processor, the thread count or the block size, the result is the one that the formula in the
docstring gives.

Legend of name endings: `_u8` raw little-endian bytes, `_f32`/`_f64` arrays of that type.
"""
