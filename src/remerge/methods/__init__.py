"""Merge methods, a module each: parameters, the formula and its rounding, the kernel."""
