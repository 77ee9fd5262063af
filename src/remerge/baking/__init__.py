"""Baking adapters into a model: the plan, the formulas of each kind of adapter, the kernels."""
