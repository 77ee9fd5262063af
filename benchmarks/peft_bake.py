"""The same bake by peft: `python -m benchmarks.peft_bake OUT MODEL ADAPTER`."""

from __future__ import annotations

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main() -> None:
    """Load, merge and save, as peft's documentation does it."""
    out, model, adapter = sys.argv[1:]
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float16)
    merged = PeftModel.from_pretrained(loaded, adapter).merge_and_unload()
    merged.save_pretrained(out)


if __name__ == "__main__":
    main()
