"""Adapters: fitting what peft saved to the model that it is baked into."""
