"""What the same tensor is called in different files: wrappers, roots and renamed modules, as data.

>>> inner_name("language_model.model.layers.0.mlp.up_proj.weight")
'layers.0.mlp.up_proj.weight'
>>> inner_name("_orig_mod.model.layers.0.mlp.up_proj.weight")
'layers.0.mlp.up_proj.weight'

transformers saved the language part of multimodal models under `language_model.model.` and later
holds it as `model.language_model.`, saves models with and without a head under two roots, and has
renamed modules. Training frameworks add segments of their own. Tensors of one inner name are the
same tensor.
"""

from __future__ import annotations

import re

#: Segments that torch.compile, FSDP and activation checkpointing put anywhere into a name.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
#: Leading segments that hold the whole model, or its language part, and nothing beside it: those of
#: DataParallel and peft, then the roots of transformers' models.
_ROOTS = frozenset(
    {
        "module",
        "base_model",
        "model",
        "language_model",
        "text_model",
        "transformer",
        "gpt_neox",
        "backbone",
    }
)
#: Modules that transformers has renamed: (as older files have it, as it is now).
_RENAMED = (
    ("vision_tower.vision_model.", "vision_tower."),
    ("embed_out.", "lm_head."),  # GPT-NeoX
    (".block_sparse_moe.", ".mlp."),  # Mixtral, and the parts of its experts
)
_PARTS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_PART = re.compile(r"(?<=\.experts\.)([0-9]+)\.(w[123])(?=\.)")


def inner_name(name: str) -> str:
    """Return the name of a tensor without wrappers and roots, its modules as called now."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    first = next((i for i, part in enumerate(parts) if part not in _ROOTS), len(parts))
    inner = ".".join(parts[first:])
    for old, new in _RENAMED:
        at = inner.find(old)
        if at == 0 or (at > 0 and old.startswith(".")):
            inner = inner[:at] + new + inner[at + len(old) :]
    return _PART.sub(lambda found: f"{found[1]}.{_PARTS[found[2]]}", inner)
