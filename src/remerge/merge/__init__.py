"""Merges as plans: first everything is checked against headers, then shards are computed."""
