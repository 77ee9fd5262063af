"""A GGML file of 2023 as people run it: tokenized, run and decoded by ctransformers.

It computes in float32 or less: scores of quants are of the class *same-platform*.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remerge.errors import RecipeError
from remerge.evaluate.suite import Suite
from remerge.evaluate.token_model import TokenModel
from remerge.runtimes.programs import legacy_tokens, open_ctransformers

SMALL = 200_000_000
"""Bytes below which one thread is fastest."""

CONTEXT = 2048
"""Tokens: the format does not say what a model was trained for, and this was the rule then."""


class LegacyGgmlModel(TokenModel):
    """One GGML file in ctransformers. Use `load_ggml`."""

    def __init__(self, model: Any, *, add_bos: bool, context: int) -> None:
        super().__init__(add_bos)
        self._model = model
        self.max_length = context

    def tokenize(self, text: str, special: bool) -> list[int]:
        """See `TokenModel`."""
        return legacy_tokens(self._model, text, special)

    @property
    def eot_token_id(self) -> int:
        """What stands before a text without context: the beginning-of-text token."""
        return int(self._model.bos_token_id)

    def _read(self, tokens: Sequence[int], *, anew: bool) -> np.ndarray:
        """The logits after `tokens`, which follow what was read before unless `anew`."""
        if anew:
            self._model._context.clear()
            self._model.ctransformers_llm_reset()
        self._model.eval(list(tokens))
        return np.array(self._model.logits, np.float64)

    def next_token(self, prompt: Sequence[int]) -> np.ndarray:
        """See `TokenModel`."""
        logits = self._read(prompt, anew=True)
        logits -= logits.max()
        return np.asarray(logits - np.log(np.exp(logits).sum()))

    def answer(self, prompt: list[int], count: int, until: list[str]) -> str:
        """See `TokenModel`."""
        logits = self._read(prompt, anew=True)
        new: list[int] = []
        for left in reversed(range(count)):
            token = int(logits.argmax())
            if self._model.is_eos_token(token):
                break
            new.append(token)
            text = str(self._model.detokenize(new))
            for stop in until:
                if stop in text:
                    return text[: text.index(stop)]
            if left:
                logits = self._read([token], anew=False)
        return str(self._model.detokenize(new))


def load_ggml(path: Path, suite: Suite) -> LegacyGgmlModel:
    """A GGML file in ctransformers' portable build.

    Raises CheckpointError if it does not load, RecipeError if a chat template is asked for, of
    which the format holds none, ToolError if ctransformers is not installed.
    """
    if suite.chat_template:
        raise RecipeError(
            f"{path}: a ggjt file holds no chat template; score it without --chat-template, "
            "eval.chat_template=false, or score a GGUF file"
        )
    threads = 1 if path.stat().st_size < SMALL else os.cpu_count() or 1
    model = open_ctransformers(path, context=CONTEXT, threads=threads)
    return LegacyGgmlModel(model, add_bos=suite.add_bos_token is not False, context=CONTEXT)
