"""GPTQ: 4-bit weights fitted to a calibration text."""

import remerge.kernels  # noqa: F401 - checks how numba is set up before it is loaded
