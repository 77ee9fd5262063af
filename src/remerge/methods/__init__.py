"""Merge methods, a module each: parameters, the formula and its rounding, the kernel."""

import remerge.kernels  # noqa: F401 - checks how numba is set up before it is loaded
