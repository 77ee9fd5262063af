"""Checkpoints at rest: safetensors, types, the layout of files, the model id."""
