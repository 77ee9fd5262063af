"""Run a quantized file in the program that people run it in.

>>> with closing(load_gguf(path)) as model:
...     model.continue_greedily([1, 306, 626], 8)

Every runtime is an optional extra; ToolError says which one is missing. They compute in float32 or
less, so what they return is of the class *same-platform* and belongs into tests, not into metrics
(for those see `remerge.quantize.core.perplexity`).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from remerge.errors import ToolError
from remerge.tensors.tokenizer import NORMAL


class Runtime(Protocol):
    """A loaded model. Prompts are token ids, the beginning-of-text token included."""

    def continue_greedily(self, prompt: list[int], count: int) -> list[int]:
        """The `count` most likely tokens one after the other; end-of-text is one as any other."""

    def log_probabilities(self, prompt: list[int]) -> np.ndarray:
        """Natural logarithms of the next token's probabilities: float64 [vocabulary]."""

    def close(self) -> None:
        """Free the memory."""


class LlamaCpp:
    """A GGUF file in llama.cpp, through `xllamacpp`. Use `load_gguf`."""

    def __init__(self, server: Any, vocabulary: int, plain_token: int) -> None:
        self._server = server
        self._vocabulary = vocabulary
        self._plain_token = plain_token

    def _next(self, prompt: list[int] | str, candidates: int) -> list[dict[str, Any]]:
        """The most likely next tokens with their logarithmic probabilities, best first."""
        answer = self._server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": 1,
                "temperature": 0,
                "n_probs": candidates,
                # The server tells no probabilities for end-of-text or for half of a character. They
                # come from the logits as they are, so what is drawn may be any plain token.
                "logit_bias": [[self._plain_token, 1e9]],
                # From an empty cache: an answer never depends on the question before.
                "cache_prompt": False,
            }
        )
        if "choices" not in answer:
            raise ToolError(f"llama.cpp: {answer.get('error', answer)}")
        (token,) = answer["choices"][0]["logprobs"]["content"]
        return list(token["top_logprobs"])

    def continue_greedily(self, prompt: list[int], count: int) -> list[int]:
        """See `Runtime`."""
        ids: list[int] = []
        for _ in range(count):
            ids.append(self._next(prompt + ids, 1)[0]["id"])
        return ids

    def log_probabilities(self, prompt: list[int] | str) -> np.ndarray:
        """See `Runtime`; a text is split into tokens by the file's own tokenizer."""
        found = np.full(self._vocabulary, -np.inf)
        for token in self._next(prompt, self._vocabulary):
            found[token["id"]] = token["logprob"]
        return found

    def chat(self, messages: list[dict[str, str]], count: int) -> str:
        """The answer to a conversation in the file's own chat template."""
        answer = self._server.handle_chat_completions(
            {"messages": messages, "max_tokens": count, "temperature": 0}
        )
        if "choices" not in answer:
            raise ToolError(f"llama.cpp: {answer.get('error', answer)}")
        return str(answer["choices"][0]["message"]["content"])

    def close(self) -> None:
        """See `Runtime`."""
        self._server = None


def load_gguf(path: Path | str, *, threads: int = 1, context: int = 512) -> LlamaCpp:
    """Load a GGUF file in llama.cpp; ToolError if it does not load."""
    try:
        import xllamacpp
    except ImportError:
        raise ToolError("llama.cpp is not installed: pip install 'remerge[runtimes]'") from None
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    pairs = enumerate(zip(tokens, kinds, strict=True))
    plain = next(token for token, (text, kind) in pairs if kind == NORMAL and text.isalnum())
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx = context
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    settings.warmup = False
    settings.verbosity = -1
    settings.cpuparams.n_threads = threads
    settings.cpuparams_batch.n_threads = threads
    # The cache in float32: what is compared are the weights.
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    try:
        return LlamaCpp(xllamacpp.Server(settings), len(tokens), plain)
    except (RuntimeError, ValueError) as error:
        raise ToolError(f"{path}: llama.cpp does not load it ({error})") from None


class CTransformers:
    """A legacy GGML file in `ctransformers`. Use `load_ggml`."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def log_probabilities(self, prompt: list[int]) -> np.ndarray:
        """See `Runtime`."""
        with warnings.catch_warnings():
            # Said to be for the high-level interface only, which has no logits.
            warnings.simplefilter("ignore", UserWarning)
            self._model.reset()
        self._model.eval(prompt)
        logits = np.array(self._model.logits, np.float64)
        shifted = logits - logits.max()
        return np.asarray(shifted - np.log(np.exp(shifted).sum()))

    def continue_greedily(self, prompt: list[int], count: int) -> list[int]:
        """See `Runtime`."""
        ids: list[int] = []
        for _ in range(count):
            ids.append(int(self.log_probabilities(prompt + ids).argmax()))
        return ids

    def close(self) -> None:
        """See `Runtime`."""
        self._model = None


def load_ggml(path: Path | str, *, threads: int = 1, context: int = 512) -> CTransformers:
    """Load a ggjt file in ctransformers' portable build; ToolError if it does not load."""
    try:
        from ctransformers import LLM
        from ctransformers.llm import Config
    except ImportError:
        raise ToolError("ctransformers is not installed: pip install 'remerge[runtimes]'") from None
    config = Config(context_length=context, threads=threads)
    try:
        model = LLM(str(path), model_type="llama", config=config, lib="basic")
    except (RuntimeError, ValueError, OSError) as error:
        raise ToolError(f"{path}: ctransformers does not load it ({error})") from None
    return CTransformers(model)
