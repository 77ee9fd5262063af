"""LoRA adapters: reading the files that peft saves, and baking them into a model."""
