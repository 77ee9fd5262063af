"""Where weights come from: pinned, checked against their digests, then made plain safetensors."""
