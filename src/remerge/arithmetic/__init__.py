"""Arithmetic that merge methods share: reductions, ranks, random draws, scalar functions."""

import remerge.kernels  # noqa: F401 - checks how numba is set up before it is loaded
