"""Which layer a tensor's name says it is in."""

from __future__ import annotations

import pytest

from remerge.architectures.compatibility import is_buffer
from remerge.architectures.layer_number import layer_of, split_layer


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.7.mlp.up_proj.weight", (7, "mlp.up_proj.weight")),
        ("layers.0.attention.wq.weight", (0, "attention.wq.weight")),
        ("bert.encoder.layer.11.output.dense.bias", (11, "output.dense.bias")),
        ("transformer.h.12.attn.c_attn.weight", (12, "attn.c_attn.weight")),
        ("encoder.block.3.layer.1.wi.weight", (3, "layer.1.wi.weight")),
        ("rwkv.blocks.4.att.key.weight", (4, "att.key.weight")),
        ("blk.5.attn_q.weight", (5, "attn_q.weight")),
        ("model.layers.2.mlp.experts.9.w1.weight", (2, "mlp.experts.9.w1.weight")),
        ("model.embed_tokens.weight", None),
        ("model.layers.norm.weight", None),
        ("model.players.3.weight", None),
        ("model.layers.9999999999.weight", None),
        ("model.layers.٣.weight", None),
    ],
)
def test_every_family_names_its_layers(name: str, place: tuple[int, str] | None) -> None:
    assert split_layer(name) == place
    assert layer_of(name) == (place[0] if place else None)


def test_masks_are_buffers_and_biases_are_not() -> None:
    for name in ("h.0.attn.bias", "gpt_neox.layers.0.attention.bias"):
        assert is_buffer(name, (1, 1, 32, 32)) and not is_buffer(name, (32,))
    assert is_buffer("h.0.attn.masked_bias", ()) and not is_buffer("h.0.mlp.bias", (1, 1, 2, 2))
