"""Programs in which people run models: llama.cpp, ctransformers, transformers; all offline."""
