"""What a tensor's name says: in which layer it stands, and what it is there.

>>> layer_of("model.layers.7.mlp.up_proj.weight")
7
>>> split_layer("model.layers.7.mlp.up_proj.weight")
(7, 'mlp.up_proj.weight')
"""

from __future__ import annotations

import re

#: What families call their list of layers: Llama and its kin `layers`, BERT `layer`, GPT-2 `h`,
#: T5 `block`, RWKV `blocks`, GGUF files `blk`. The outermost list counts; nine digits are enough.
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|blocks|block|blk|h)\.([0-9]{1,9})\.(.+)$")


def split_layer(name: str) -> tuple[int, str] | None:
    """Number of the layer and the rest of the name after it; None outside of the layers."""
    found = _LAYER.search(name)
    return (int(found[1]), found[2]) if found else None


def layer_list(name: str) -> str | None:
    """The list of layers that a tensor belongs to, by its name up to the number.

    >>> layer_list("vision_tower.encoder.layers.3.mlp.fc1.weight")
    'vision_tower.encoder.layers'
    """
    found = _LAYER.search(name)
    return name[: found.start(1) - 1] if found else None


def layer_of(name: str) -> int | None:
    """Number of the layer that a tensor belongs to; None outside of the layers."""
    place = split_layer(name)
    return place[0] if place else None
