"""Talking to a built model, in whatever format it is: the prompt, and programs that run it."""
