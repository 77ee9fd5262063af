"""What a model calls its tokens: tokenizer files, prompts, chat templates."""
