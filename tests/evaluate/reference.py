"""Slow and obvious counterparts of what an evaluation computes, in NumPy float64.

`logits` is a Llama written out from the formulas of its papers; nothing of transformers or torch
takes part. `log_likelihood` and `greedy` are what the harness does with it, one item at a time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits


class ReferenceLlama:
    """A Llama in NumPy float64, read from a folder of safetensors; meant for tiny models."""

    def __init__(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.weights = {
            name: array.astype(np.float64)
            for name, array in load_file(folder / "model.safetensors").items()
        }
        # Choices of one token ask about the same prompt one after the other.
        self._last: tuple[tuple[int, ...], np.ndarray] = ((), np.empty(0))

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return x * scale * self.weights[name]

    def _rotate(self, x: np.ndarray) -> np.ndarray:
        """x: (tokens, heads, dim)."""
        tokens, _, dim = x.shape
        base = self.config["rope_parameters"]["rope_theta"]
        frequencies = (base ** (-np.arange(0, dim, 2) / dim)).astype(np.float32).astype(np.float64)
        angles = np.outer(np.arange(tokens), frequencies)[:, None, :]
        first, second = x[..., : dim // 2], x[..., dim // 2 :]
        return np.concatenate(
            [
                first * np.cos(angles) - second * np.sin(angles),
                second * np.cos(angles) + first * np.sin(angles),
            ],
            axis=-1,
        )

    def logits(self, tokens: list[int]) -> np.ndarray:
        """(tokens, vocabulary), the prediction after each token."""
        with threadpool_limits(1):  # matrices this small only wait for a second thread
            return self._forward(tokens)

    def _forward(self, tokens: list[int]) -> np.ndarray:
        heads = self.config["num_attention_heads"]
        shared = heads // self.config["num_key_value_heads"]
        x = self.weights["model.embed_tokens.weight"][tokens]
        count, width = x.shape
        dim = width // heads
        for layer in range(self.config["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            y = self._norm(x, at + "input_layernorm.weight")
            q, k, v = (
                (y @ self.weights[f"{at}self_attn.{p}_proj.weight"].T).reshape(count, -1, dim)
                for p in "qkv"
            )
            q, k = self._rotate(q), self._rotate(k)
            k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
            q, k, v = (a.transpose(1, 0, 2) for a in (q, k, v))
            scores = q @ k.transpose(0, 2, 1) / np.sqrt(dim)
            scores[:, np.triu(np.ones((count, count), bool), 1)] = -np.inf
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            mixed = (scores @ v).transpose(1, 0, 2).reshape(count, width)
            x = x + mixed @ self.weights[at + "self_attn.o_proj.weight"].T
            y = self._norm(x, at + "post_attention_layernorm.weight")
            gate = y @ self.weights[at + "mlp.gate_proj.weight"].T
            up = y @ self.weights[at + "mlp.up_proj.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ self.weights[at + "mlp.down_proj.weight"].T
        return self._norm(x, "model.norm.weight") @ self.weights["lm_head.weight"].T

    def log_likelihood(self, context: list[int], continuation: list[int]) -> float:
        """Ln P(continuation | context), summed over the tokens of the continuation."""
        tokens = (*context, *continuation[:-1])
        if tokens != self._last[0]:
            self._last = (tokens, self.logits(list(tokens)))
        logits = self._last[1]
        total = 0.0
        for i, token in enumerate(continuation):
            row = logits[len(context) + i - 1]
            total += row[token] - row.max() - np.log(np.exp(row - row.max()).sum())
        return float(total)

    def greedy(self, tokens: list[int], count: int, end: int) -> list[int]:
        """The `count` most likely next tokens, one after the other, or fewer if `end` is one."""
        new: list[int] = []
        while len(new) < count:
            token = int(self.logits(tokens + new)[-1].astype(np.float32).argmax())
            if token == end:
                break
            new.append(token)
        return new
