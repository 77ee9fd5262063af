"""No network: the libraries that could reach one are told so before and after they are imported.

>>> with offline():
...     import transformers

The Hugging Face libraries read their switches once, at import, so the environment alone is not
enough in a process that imported one of them earlier. What was set before is set again after.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SWITCHES = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
#: Where the libraries keep what they read at import.
_READ = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_DATASETS_OFFLINE"),
)


@contextmanager
def offline() -> Iterator[None]:
    """Network access is off for this process, and those that it starts, while the block runs."""
    environment = {key: os.environ.get(key) for key in SWITCHES}
    read = {key: getattr(sys.modules[key[0]], key[1]) for key in _READ if key[0] in sys.modules}
    # What is imported in the block reads our switches, and afterwards says what it would have read.
    asked = any(environment[key] for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    os.environ.update(SWITCHES)
    for module, name in read:
        setattr(sys.modules[module], name, True)
    try:
        yield
    finally:
        for key, value in environment.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        for module, name in _READ:
            if module in sys.modules:
                setattr(sys.modules[module], name, read.get((module, name), asked))
