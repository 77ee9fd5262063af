"""A GGUF file as people run it: tokenized, run and decoded by llama.cpp itself.

llama.cpp computes in float32 or less: scores of quants are of the class *same-platform*.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader

from remerge.errors import RecipeError, ToolError
from remerge.evaluate.suite import Suite
from remerge.evaluate.token_model import TokenModel
from remerge.runtimes.programs import LlamaServer, in_a_line, open_llama_cpp

SMALL = 200_000_000
"""Bytes below which one thread is fastest and every answer starts from an empty cache."""


class LlamaCppModel(TokenModel):
    """One GGUF file in llama.cpp's server, which runs in this process. Use `load_gguf`.

    reuse: keep what a prompt shares with the one before it. Faster, and in float32 an answer may
    then depend in its last digits on the question before.
    """

    def __init__(self, server: LlamaServer, *, add_bos: bool, reuse: bool) -> None:
        super().__init__(add_bos)
        self._server = server
        self._reuse = reuse
        self.max_length = server.context
        (model,) = server.ask("GET", "/v1/models")["data"]
        self._vocabulary = int(model["meta"]["n_vocab"])
        # Forced as the token drawn, so that a distribution is told even where its best token is
        # the end of the text: the server keeps silent about that one.
        self._plain = self.tokenize("a", False)[-1]

    def _complete(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self._server.complete({"cache_prompt": self._reuse, "temperature": 0, **request})
        if "choices" not in answer:
            raise ToolError(f"llama.cpp: {in_a_line(answer.get('error', answer))}")
        choice: dict[str, Any] = answer["choices"][0]
        return choice

    def tokenize(self, text: str, special: bool) -> list[int]:
        """See `TokenModel`."""
        return self._server.tokenize(text, special)

    @property
    def eot_token_id(self) -> int:
        """What stands before a text without context: the beginning-of-text token."""
        first = self.tokenize("", True)
        if not first:
            raise ToolError("llama.cpp: the file names no beginning-of-text token")
        return first[0]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text, by the template in the file."""
        body = {"messages": chat_history, "add_generation_prompt": add_generation_prompt}
        return str(self._server.ask("POST", "/apply-template", body)["prompt"])

    def next_token(self, prompt: Sequence[int]) -> np.ndarray:
        """See `TokenModel`."""
        choice = self._complete(
            {
                "prompt": list(prompt),
                "n_predict": 1,
                "n_probs": self._vocabulary,
                "logit_bias": [[self._plain, 1e9]],
            }
        )
        found = np.full(self._vocabulary, -np.inf)
        (token,) = choice["logprobs"]["content"]
        for candidate in token["top_logprobs"]:
            found[candidate["id"]] = candidate["logprob"]
        return found

    def answer(self, prompt: list[int], count: int, until: list[str]) -> str:
        """See `TokenModel`."""
        return str(self._complete({"prompt": prompt, "n_predict": count, "stop": until})["text"])


def load_gguf(path: Path, suite: Suite) -> LlamaCppModel:
    """A GGUF file in llama.cpp, at the length of text that it was trained for.

    Raises CheckpointError if llama.cpp refuses it, RecipeError for a file without the chat template
    that is asked for, ToolError if llama.cpp is not installed.
    """
    # llama.cpp itself would take a template of its own.
    if suite.chat_template and "tokenizer.chat_template" not in GGUFReader(path).fields:
        raise RecipeError(
            f"{path}: has no chat template; score it without --chat-template, "
            "eval.chat_template=false"
        )
    small = path.stat().st_size < SMALL
    server = open_llama_cpp(
        path,
        context=0,
        threads=1 if small else os.cpu_count() or 1,
        gpu=suite.device.startswith("cuda"),
        full_cache=suite.dtype in ("float64", "float32"),
        own_template=suite.chat_template,
    )
    return LlamaCppModel(server, add_bos=suite.add_bos_token is not False, reuse=not small)
