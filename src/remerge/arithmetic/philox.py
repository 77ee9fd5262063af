"""Random draws that are a pure function of key and index: Philox4x32-10.

>>> key = draw_key(seed=0, position=1, name="model.norm.weight")

Source: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3". Entry j
takes word j mod 4 of the block whose counter is j div 4, so no state and no order of work exists.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
from numba import njit

from remerge.kernels.compiled import kernel
from remerge.kernels.halves import u32

#: Of 2³² draws, those below this are all: nothing is dropped.
ALL = 1 << 32


def draw_key(seed: int, position: int, name: str) -> tuple[int, int]:
    """The key of a donor's draws: the first two little-endian words of a SHA-256."""
    text = f"{seed}\0{position}\0".encode() + name.encode("utf-8", "surrogateescape")
    first, second = struct.unpack("<2I", hashlib.sha256(text).digest()[:8])
    return first, second


@njit(inline="always", error_model="numpy")
def philox_block(key0, key1, first, count, out_u32):
    """out_u32[:count] = the draws of entries [first, first + count); `first` a multiple of 4.

    `out_u32` has a size that is a multiple of 4.
    """
    low_half = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    for g in range((count + 3) // 4):
        counter = np.uint64(first // 4 + g)
        c0 = np.uint64(counter & low_half)
        c1 = np.uint64(counter >> shift)
        c2 = np.uint64(0)
        c3 = np.uint64(0)
        k0 = np.uint64(key0)
        k1 = np.uint64(key1)
        for _ in range(10):
            left = np.uint64(c0 * np.uint64(0xD2511F53))
            right = np.uint64(c2 * np.uint64(0xCD9E8D57))
            c0 = np.uint64((right >> shift) ^ c1 ^ k0)
            c1 = np.uint64(right & low_half)
            c2 = np.uint64((left >> shift) ^ c3 ^ k1)
            c3 = np.uint64(left & low_half)
            k0 = np.uint64((k0 + np.uint64(0x9E3779B9)) & low_half)
            k1 = np.uint64((k1 + np.uint64(0xBB67AE85)) & low_half)
        out_u32[4 * g] = u32(c0)
        out_u32[4 * g + 1] = u32(c1)
        out_u32[4 * g + 2] = u32(c2)
        out_u32[4 * g + 3] = u32(c3)


@kernel("void(uint32, uint32, int64, uint32[::1])")
def draws(key0, key1, first, out_u32):
    """The draws of entries [first, first + out_u32.size), both multiples of 4."""
    philox_block(key0, key1, first, out_u32.size, out_u32)
