"""A GGUF file as people run it: tokenized, run and decoded by llama.cpp itself.

llama.cpp computes in float32 or less: scores of quants are of the class *same-platform*.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from remerge.errors import CheckpointError, ToolError
from remerge.evaluate.suite import Suite
from remerge.evaluate.token_model import TokenModel

SMALL = 200_000_000
"""Bytes below which one thread is fastest and every answer starts from an empty cache."""


class LlamaCppModel(TokenModel):
    """One GGUF file in llama.cpp's server, which runs in this process. Use `load_gguf`.

    reuse: keep what a prompt shares with the one before it. Faster, and in float32 an answer may
    then depend in its last digits on the question before.
    """

    def __init__(self, server: Any, *, add_bos: bool, reuse: bool) -> None:
        super().__init__(add_bos)
        self._server = server
        self._reuse = reuse
        address = urlsplit(server.listening_address)
        self._loopback = (address.hostname or "127.0.0.1", address.port or 80)
        properties = self._ask("GET", "/props")
        self.max_length = int(properties["default_generation_settings"]["n_ctx"])
        (model,) = self._ask("GET", "/v1/models")["data"]
        self._vocabulary = int(model["meta"]["n_vocab"])
        # Forced as the token drawn, so that a distribution is told even where its best token is
        # the end of the text: the server keeps silent about that one.
        self._plain = self.tokenize("a", False)[-1]

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection(*self._loopback, timeout=600)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        if response.status != 200:
            raise ToolError(f"llama.cpp: {answer.get('error', answer)}")
        return answer

    def _complete(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self._server.handle_completions(
            {"cache_prompt": self._reuse, "temperature": 0, **request}
        )
        if "choices" not in answer:
            raise ToolError(f"llama.cpp: {answer.get('error', answer)}")
        choice: dict[str, Any] = answer["choices"][0]
        return choice

    def tokenize(self, text: str, special: bool) -> list[int]:
        """See `TokenModel`."""
        body = {"content": text, "add_special": special}
        return [int(token) for token in self._ask("POST", "/tokenize", body)["tokens"]]

    @property
    def eot_token_id(self) -> int:
        """What stands before a text without context: the beginning-of-text token."""
        first = self.tokenize("", True)
        if not first:
            raise ToolError("llama.cpp: the file names no beginning-of-text token")
        return first[0]

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

    Raises CheckpointError if llama.cpp refuses it, ToolError if llama.cpp is not installed.
    """
    try:
        import xllamacpp
    except ImportError:
        raise ToolError(
            f"{path}: llama.cpp is not installed: pip install 'remerge[runtimes]'"
        ) from None
    small = path.stat().st_size < SMALL
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx = 0  # as the file says
    settings.n_parallel = 1
    settings.n_gpu_layers = 999 if suite.device.startswith("cuda") else 0
    settings.warmup = False
    settings.verbosity = -1
    threads = 1 if small else os.cpu_count() or 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    if suite.dtype in ("float64", "float32"):
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    try:
        server = xllamacpp.Server(settings)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: llama.cpp does not load it ({error})") from None
    return LlamaCppModel(server, add_bos=suite.add_bos_token is not False, reuse=not small)
