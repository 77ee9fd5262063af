"""Buffers that old checkpoints carry and that are no weights, known by name and shape.

>>> is_buffer("model.layers.0.self_attn.rotary_emb.inv_freq", (64,))
True
"""

from __future__ import annotations

import re

#: Buffers that old checkpoints saved beside the weights; the model computes them itself.
_BUFFER = re.compile(
    r"(^|\.)((rotary|rotary_emb|rotary_pos_emb)\.(inv_freq|cos_cached|sin_cached)|position_ids)$"
)
#: Causal masks [1, 1, n, n] and their fill values of GPT-2, GPT-J, GPT-Neo and GPT-NeoX (Pythia).
_MASK = re.compile(r"(^|\.)(attn|attention|crossattention)\.(bias|masked_bias)$")


def is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is no weight but a buffer that old checkpoints carry.

    A bias of the same name as a mask is a weight: only its shape tells them apart.
    """
    mask = shape == () or (len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3])
    return _BUFFER.search(name) is not None or (mask and _MASK.search(name) is not None)
