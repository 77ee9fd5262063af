"""No network: the libraries that could reach one are told so before and after they are imported.

The Hugging Face libraries read their switches once, at import, so the environment alone is not
enough in a process that imported one of them earlier.
"""

from __future__ import annotations

import os
import sys

SWITCHES = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


def stay_offline() -> None:
    """Switch network access off for this process and the processes that it starts."""
    os.environ.update(SWITCHES)
    for module, names in {
        "huggingface_hub.constants": ("HF_HUB_OFFLINE",),
        "datasets.config": ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
    }.items():
        if module in sys.modules:
            for name in names:
                setattr(sys.modules[module], name, True)
