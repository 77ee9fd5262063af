"""Tensors at rest: reading checkpoints without trusting them, writing shards that never vary."""
