"""Pinning the sources of a recipe: what the hub has, and what it costs to download."""
