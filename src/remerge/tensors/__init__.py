"""Tensors at rest: reading checkpoints and adapters without trusting them, and what fits what."""
