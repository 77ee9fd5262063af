r"""The prompt that the models of the recipe were trained on: Alpaca, without its preamble.

>>> alpaca("Name three rivers.")
'### Instruction:\nName three rivers.\n\n### Response:\n'
"""

from __future__ import annotations

ALPACA = "### Instruction:\n{instruction}\n\n### Response:\n"

#: Where an answer ends besides the end-of-text token: the model begins to play the user.
ALPACA_STOP = "\n### Instruction:"


def alpaca(instruction: str, before: str = "") -> str:
    """`instruction` in the template; `before` is what was said earlier."""
    opening = f"{before.rstrip()}\n\n" if before.strip() else ""
    return opening + ALPACA.replace("{instruction}", instruction.strip())
