"""Trains the embedded family; `python -m embedded.train --help` lists what it can do."""
