"""Quantized checkpoints, dequantized on the way in: see `reading`."""
