r"""How a question is put to a model: the Alpaca prompt, as text and as a chat template.

>>> alpaca("Name three rivers.")
'### Instruction:\nName three rivers.\n\n### Response:\n'

This is the one place that knows it. The models of the recipe were trained on it without its
preamble.
"""

from __future__ import annotations

ALPACA = "### Instruction:\n{instruction}\n\n### Response:\n"

#: Where an answer ends besides the end-of-text token: the model begins to play the user.
ALPACA_STOP = "\n### Instruction:"

_ASKED, _ANSWERED = (part.rstrip("\n") for part in ALPACA.split("{instruction}\n\n"))
#: The same for programs that fill a conversation into a Jinja template, as llama.cpp and
#: transformers do. An answer ends with the end-of-text token.
ALPACA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}"
    f"{{{{ '{_ASKED}\\n' + message['content'] + '\\n\\n' }}}}"
    "{% elif message['role'] == 'assistant' %}"
    f"{{{{ '{_ANSWERED}\\n' + message['content'] + eos_token + '\\n\\n' }}}}"
    "{% endif %}{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{_ANSWERED}\\n' }}}}{{% endif %}}"
)


def alpaca(instruction: str, before: str = "") -> str:
    """`instruction` in the template; `before` is what was said earlier."""
    opening = f"{before.rstrip()}\n\n" if before.strip() else ""
    return opening + ALPACA.replace("{instruction}", instruction.strip())
