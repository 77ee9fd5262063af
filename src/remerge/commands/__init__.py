"""The verbs of the command `remerge`, one module each."""
