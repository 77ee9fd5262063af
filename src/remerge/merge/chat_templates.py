"""Chat templates by the names that mergekit's `chat_template` knows.

>>> CHAT_TEMPLATES["chatml"]

Each is the published format of its family, written here: ChatML by OpenAI, Llama 3 by Meta, the
instruct format by Mistral, EXAONE by LG; Alpaca is the one of `remerge.vocabulary.prompts`.
"""

from __future__ import annotations

from remerge.vocabulary.prompts import ALPACA_TEMPLATE

_CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>{{ '\n\n' }}"
    "{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}"
    "{% endif %}"
)
_MISTRAL = (
    "{% set system = namespace(text='') %}"
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{% set system.text = message['content'] + '\n\n' %}"
    "{% elif message['role'] == 'user' %}"
    "{{ ' [INST] ' + system.text + message['content'] + ' [/INST]' }}"
    "{% set system.text = '' %}"
    "{% else %}"
    "{{ ' ' + message['content'] + eos_token }}"
    "{% endif %}"
    "{% endfor %}"
)
_EXAONE = (
    "{% if messages and messages[0]['role'] != 'system' %}[|system|][|endofturn|]{{ '\n' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "[|{{ message['role'] }}|]{{ message['content'] }}"
    "{% if message['role'] != 'user' %}[|endofturn|]{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}[|assistant|]{% endif %}"
)
CHAT_TEMPLATES: dict[str, str] = {
    "alpaca": ALPACA_TEMPLATE,
    "chatml": _CHATML,
    "exaone": _EXAONE,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
}
