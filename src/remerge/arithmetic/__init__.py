"""Arithmetic that merge methods share: reductions, ranks, random draws, scalar functions."""
