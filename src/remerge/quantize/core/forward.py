"""A Llama in float64, one layer at a time, in NumPy.

>>> rows = log_probabilities(shape, weights, windows)

transformers computes norms, rotary angles and softmax in float32 even when the weights are float64;
their noise (1e-7) is enough to flip a 4-bit code or the last digit of a perplexity. Here everything
is float64, so that what processors and thread counts change is in the order of 1e-14 and discrete
or rounded results stay the same (class *stable*). Only the weights of one layer are in memory.

Shapes: a hidden state is float64 [length, hidden]; a matrix is float64 [out, in], rows in the order
of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from remerge.quantize.core.llama import LlamaShape

#: Rows for which logits are in memory together.
_LOGIT_ROWS = 1024


class Weights(Protocol):
    """Where weights come from: parts and layers are named as in `ModelTensor`."""

    def __call__(self, part: str, layer: int) -> np.ndarray:
        """The float64 matrix or vector of one part; layer −1 for what is outside the layers."""


def normalise(state: np.ndarray, gain: np.ndarray, epsilon: float) -> np.ndarray:
    """RMS norm of each row (Zhang and Sennrich 2019)."""
    scale = 1.0 / np.sqrt(np.mean(state * state, axis=-1, keepdims=True) + epsilon)
    return np.asarray(state * scale * gain)


def rotations(shape: LlamaShape, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [length, head size / 2] of the rotary embedding (Su et al. 2021)."""
    exponent = np.arange(0, shape.head_size, 2, dtype=np.float64) / shape.head_size
    angle = np.outer(np.arange(length) / shape.rope_factor, shape.rope_base**-exponent)
    return np.cos(angle), np.sin(angle)


def _rotate(heads: np.ndarray, cosine: np.ndarray, sine: np.ndarray) -> np.ndarray:
    """Rotate [heads, length, size]: component i with component i + size/2."""
    first, second = np.split(heads, 2, axis=-1)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def attend(shape: LlamaShape, query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Causal attention of projected [length, heads·size] states: [length, heads·size]."""
    length, size = len(query), shape.head_size

    def split(state: np.ndarray) -> np.ndarray:
        return state.reshape(length, -1, size).transpose(1, 0, 2)

    cosine, sine = rotations(shape, length)
    repeats = shape.heads // shape.kv_heads
    queries = _rotate(split(query), cosine, sine)
    keys = np.repeat(_rotate(split(key), cosine, sine), repeats, axis=0)
    scores = queries @ keys.transpose(0, 2, 1) / np.sqrt(float(size))
    scores[:, np.triu(np.ones((length, length), bool), 1)] = -np.inf
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed = scores @ np.repeat(split(value), repeats, axis=0)
    return np.asarray(mixed.transpose(1, 0, 2).reshape(length, -1))


def gated(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """SwiGLU without its matrices: gate·sigmoid(gate)·up."""
    return np.asarray(gate / (1.0 + np.exp(-gate)) * up)


def embed(weights: Weights, windows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The state before the first layer, for each window of token ids."""
    table = weights("token_embd", -1)
    return [table[ids] for ids in windows]


def _split(rows: np.ndarray, states: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Rows of all states together, apart again."""
    return np.split(rows, np.cumsum([len(state) for state in states])[:-1])


def pass_layer(
    shape: LlamaShape, weights: Weights, layer: int, states: list[np.ndarray]
) -> list[np.ndarray]:
    """The states behind one layer. Matrices see all states at once, only attention sees each."""
    together = np.concatenate(states)
    calm = normalise(together, weights("attn_norm", layer), shape.rms_epsilon)
    projected = (
        _split(calm @ weights(part, layer).T, states) for part in ("attn_q", "attn_k", "attn_v")
    )
    mixed = [attend(shape, q, k, v) for q, k, v in zip(*projected, strict=True)]
    together = together + np.concatenate(mixed) @ weights("attn_output", layer).T
    calm = normalise(together, weights("ffn_norm", layer), shape.rms_epsilon)
    inner = gated(calm @ weights("ffn_gate", layer).T, calm @ weights("ffn_up", layer).T)
    return _split(together + inner @ weights("ffn_down", layer).T, states)


def _groups(states: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Neighbouring states, as many as have `_LOGIT_ROWS` rows together, at least one."""
    group: list[np.ndarray] = []
    for state in states:
        if group and sum(map(len, group)) + len(state) > _LOGIT_ROWS:
            yield group
            group = []
        group.append(state)
    yield group


def log_probabilities(
    shape: LlamaShape,
    weights: Weights,
    windows: Sequence[np.ndarray],
    passed: Callable[[], None] = lambda: None,
) -> Iterator[np.ndarray]:
    """For each window of token ids [length] the natural log-probabilities of what follows.

    One float64 [length, vocabulary] a window: row i is about the token behind token i.
    `passed` is called after each layer.
    """
    states = embed(weights, windows)
    for layer in range(shape.layers):
        states = pass_layer(shape, weights, layer, states)
        passed()
    gain = weights("output_norm", -1)
    head = weights("token_embd" if shape.tied else "output", -1).T
    for group in _groups(states):
        logits = normalise(np.concatenate(group), gain, shape.rms_epsilon) @ head
        logits -= logits.max(axis=-1, keepdims=True)
        yield from _split(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)), group)
