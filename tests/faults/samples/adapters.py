"""adapter_config.json files that ask for the impossible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.faults.samples import Write, headers, sample

GOOD: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


def _config(name: str, what: str, **entries: Any) -> Write:
    def write(path: Path) -> None:
        path.write_text(json.dumps({**GOOD, **entries}))

    write.__name__, write.__doc__ = name, f"Has {what}."
    return sample("adapter")(write)


for _name, _what, _entries in (
    ("rank_zero", "rank 0, a division by zero", {"r": 0}),
    ("rank_negative", "a negative rank", {"r": -2}),
    ("rank_true", "true for a rank", {"r": True}),
    ("rank_other", "another rank than its matrices", {"r": 8}),
    ("rank_text", "a text for a rank", {"r": "2"}),
    ("alpha_nan", "an alpha that is not a number", {"lora_alpha": float("nan")}),
    ("alpha_infinite", "an infinite alpha", {"lora_alpha": float("inf")}),
    ("alpha_huge", "an alpha of 400 digits, beyond any float", {"lora_alpha": 10**400}),
    ("alpha_pattern_nan", "NaN hidden in a pattern", {"alpha_pattern": {"q_proj": float("nan")}}),
    ("endless_pattern", "a regular expression that never ends", {"rank_pattern": {"(a+)+$": 2}}),
    ("broken_pattern", "a pattern that is no regular expression", {"rank_pattern": {"(": 2}}),
    ("not_baked", "another method, which peft alone can merge", {"peft_type": "OFT"}),
    ("other_method", "a method that its matrices are not of", {"peft_type": "IA3"}),
    ("dora", "DoRA, without the magnitudes that it needs", {"use_dora": True}),
    ("lora_bias", "biases of B, without any", {"lora_bias": True}),
    ("pissa", "a start that changed the model's own weights", {"init_lora_weights": "pissa"}),
    ("unknown_entry", "an entry that nobody knows", {"use_new_maths": True}),
    ("unknown_bias", "a rule for biases that does not exist", {"bias": "some"}),
    ("tokens", "trained tokens under an index below 0", {"trainable_token_indices": [-1]}),
):
    _config(_name, _what, **_entries)


def _weights(name: str, what: str, module: str) -> Write:
    def write(path: Path) -> None:
        tensors = {
            f"base_model.model.{module}.lora_{part}.weight": headers.entry(shape, at, at + 128)
            for part, shape, at in (("A", [2, 32], 0), ("B", [32, 2], 128))
        }
        headers.file(path, tensors, bytes(256))

    write.__name__, write.__doc__ = name, f"Has matrices for {what}."
    return sample("adapter weights")(write)


_weights("missing_layer", "a layer that does not exist", "model.layers.7.self_attn.q_proj")
_weights("missing_module", "a module that does not exist", "model.layers.0.self_attn.no_such")
_weights("missing_everything", "a model of another kind", "transformer.h.0.attn.c_attn")
_weights("climbing", "a module outside of the model", "model.layers.0.../../etc.q_proj")
