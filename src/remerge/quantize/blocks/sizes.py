"""How large the number types of ggml are: what a mixture and a budget need to know of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockSize:
    """`width` weights of a row take `nbytes` bytes; `code` is ggml's number for the type."""

    code: int
    width: int
    nbytes: int

    def size(self, weights: int) -> int:
        """Bytes of `weights` weights, a multiple of `width`."""
        return weights // self.width * self.nbytes

    @property
    def bits(self) -> float:
        """Bits a weight."""
        return 8 * self.nbytes / self.width


#: By ggml's name.
SIZES: dict[str, BlockSize] = {
    "F32": BlockSize(0, 1, 4),
    "F16": BlockSize(1, 1, 2),
    "BF16": BlockSize(30, 1, 2),
    "Q4_0": BlockSize(2, 32, 18),
    "Q4_1": BlockSize(3, 32, 20),
    "Q5_0": BlockSize(6, 32, 22),
    "Q5_1": BlockSize(7, 32, 24),
    "Q8_0": BlockSize(8, 32, 34),
    "Q2_K": BlockSize(10, 256, 84),
    "Q3_K": BlockSize(11, 256, 110),
    "Q4_K": BlockSize(12, 256, 144),
    "Q5_K": BlockSize(13, 256, 176),
    "Q6_K": BlockSize(14, 256, 210),
    "IQ4_NL": BlockSize(20, 32, 18),
    "IQ4_XS": BlockSize(23, 256, 136),
}
