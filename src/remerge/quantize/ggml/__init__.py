"""GGML: the legacy container `ggjt` of mid 2023."""
