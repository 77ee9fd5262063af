"""Saying what a model is, and checking that it is what somebody says."""
