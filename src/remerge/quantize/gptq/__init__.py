"""GPTQ: 4-bit weights fitted to a calibration text."""
