"""LoRA adapters: reading the files that peft saves, and fitting them to a model."""
