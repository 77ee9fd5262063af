"""The block types of ggml that GGUF and GGML share, and how a tensor becomes one."""

import remerge.kernels  # noqa: F401 - checks how numba is set up before it is loaded
