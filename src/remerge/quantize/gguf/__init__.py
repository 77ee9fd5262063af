"""GGUF: the container of llama.cpp, with its K types and their mixtures."""
