"""Baking adapters into a model: the plan, the formulas of each kind of adapter, the kernels."""

import remerge.kernels  # noqa: F401 - checks how numba is set up before it is loaded
