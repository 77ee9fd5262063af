"""The block types of ggml that GGUF and GGML share, and how a tensor becomes one."""
