"""Run a quantized model in the program that people run it in, to compare what it computes.

>>> with closing(load(folder)) as model:
...     model.continue_greedily([1, 306, 626], 8)

All compute in float32 or less, so what they return is of the class *same-platform* and belongs into
tests, not into metrics.
"""

from __future__ import annotations

import io
import json
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np

from remerge.errors import ToolError
from remerge.runtimes.programs import LlamaServer, open_ctransformers, open_llama_cpp
from remerge.vocabulary.tokenizer import NORMAL

CONTEXT = 512
#: Which package has to be installed for a container.
PACKAGES = {"gguf": "xllamacpp", "ggml": "ctransformers", "gptq": "compressed_tensors"}


class Runtime:
    """A loaded model. Prompts are token ids, the beginning-of-text token included."""

    def log_probabilities(self, prompt: list[int]) -> np.ndarray:
        """Natural logarithms of the next token's probabilities: float64 [vocabulary]."""
        raise NotImplementedError

    def continue_greedily(self, prompt: list[int], count: int) -> list[int]:
        """The `count` most likely tokens one after the other; end-of-text is one as any other."""
        ids: list[int] = []
        for _ in range(count):
            ids.append(int(self.log_probabilities(prompt + ids).argmax()))
        return ids

    def close(self) -> None:
        """Free the memory."""


class LlamaCpp(Runtime):
    """A GGUF file in llama.cpp. Use `load_gguf`."""

    def __init__(self, server: LlamaServer, vocabulary: int, plain_token: int) -> None:
        self._server = server
        self._vocabulary = vocabulary
        self._plain_token = plain_token

    def log_probabilities(self, prompt: list[int] | str) -> np.ndarray:
        """See `Runtime`; a text is split into tokens by the file's own tokenizer."""
        answer = self._server.complete(
            {
                "prompt": prompt,
                "n_predict": 1,
                "temperature": 0,
                "n_probs": self._vocabulary,
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
        found = np.full(self._vocabulary, -np.inf)
        for entry in token["top_logprobs"]:
            found[entry["id"]] = entry["logprob"]
        return found

    def chat(self, messages: list[dict[str, str]], count: int) -> str:
        """The answer to a conversation in the file's own chat template."""
        request = {"messages": messages, "max_tokens": count, "temperature": 0}
        answer = self._server.ask("POST", "/v1/chat/completions", request)
        return str(answer["choices"][0]["message"]["content"])

    def continue_text(self, prompt: str, count: int) -> str:
        """What the model says after a text, at most `count` tokens, greedily."""
        request = {"prompt": prompt, "max_tokens": count, "temperature": 0}
        return str(self._server.complete(request)["choices"][0]["text"])

    def close(self) -> None:
        """See `Runtime`."""
        self._server.close()


class CTransformers(Runtime):
    """A legacy GGML file in `ctransformers`. Use `load_ggml`."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def log_probabilities(self, prompt: list[int]) -> np.ndarray:
        """See `Runtime`."""
        with warnings.catch_warnings():
            # Said to be for the high-level interface only, which has no logits.
            warnings.simplefilter("ignore", UserWarning)
            self.model.reset()
        self.model.eval(prompt)
        return normalised(np.array(self.model.logits, np.float64))

    def close(self) -> None:
        """See `Runtime`."""
        self.model = None


class Transformers(Runtime):
    """A folder of safetensors, quantized or not, in transformers."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        with redirect_stderr(io.StringIO()):  # what unpacks the weights draws bars
            self._model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), local_files_only=True
            ).eval()

    def log_probabilities(self, prompt: list[int]) -> np.ndarray:
        """See `Runtime`."""
        import torch

        with torch.no_grad(), redirect_stderr(io.StringIO()):
            logits = self._model(torch.tensor([prompt])).logits[0, -1]
        return normalised(logits.double().numpy())


def normalised(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits."""
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def load_gguf(path: Path) -> LlamaCpp:
    """A GGUF file, on one thread, with a cache in float32: what is compared are the weights."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    pairs = enumerate(zip(tokens, kinds, strict=True))
    plain = next(token for token, (text, kind) in pairs if kind == NORMAL and text.isalnum())
    server = open_llama_cpp(path, context=CONTEXT, threads=1, full_cache=True, own_template=True)
    return LlamaCpp(server, len(tokens), plain)


def load_ggml(path: Path) -> CTransformers:
    """A ggjt file, on one thread."""
    return CTransformers(open_ctransformers(path, context=CONTEXT, threads=1))


def load(folder: Path) -> Runtime:
    """What this library quantized into `folder`, in its runtime."""
    manifest = json.loads((folder / "manifest.json").read_text())
    if manifest["container"] == "gguf":
        return load_gguf(folder / manifest["file"])
    if manifest["container"] == "ggml":
        return load_ggml(folder / manifest["file"])
    return Transformers(folder, "float32")
