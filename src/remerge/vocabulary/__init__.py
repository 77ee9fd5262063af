"""What a model calls its tokens: tokenizer files, maps between two of them, chat templates."""
