"""A runtime that tells the distribution of the next token, behind lm-eval's interface.

What a runtime has to bring is small: its own tokenizer, the log-probabilities after a prompt, and
greedy text. Requests run one after the other; choices that share a prompt share its computation.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs

from remerge.errors import ToolError
from remerge.evaluate.progress_hook import ShowsProgress

_LOG = logging.getLogger("lm_eval")

NEW_TOKENS = 256
"""lm-eval's limit for tasks that set none."""


class TokenModel(ShowsProgress, TemplateLM):
    """lm-eval's language model over a runtime.

    add_bos: whether prompts begin with the beginning-of-text token.
    max_length: tokens of prompt and answer that the model can hold.
    """

    max_length: int

    def __init__(self, add_bos: bool) -> None:
        super().__init__()
        self.set_cache_hook(CacheHook(None))
        self._add_bos = add_bos
        self._last: tuple[tuple[int, ...], np.ndarray] = ((), np.empty(0))

    @abstractmethod
    def tokenize(self, text: str, special: bool) -> list[int]:
        """Token ids of `text`, after the beginning-of-text token if `special`."""

    @abstractmethod
    def next_token(self, prompt: Sequence[int]) -> np.ndarray:
        """Natural logarithm of each next token's probability: float64 [vocabulary]."""

    @abstractmethod
    def answer(self, prompt: list[int], count: int, until: list[str]) -> str:
        """Greedy text of at most `count` tokens, ended before the first of the texts in `until`."""

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer is the file's own."""
        return ""

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of `string`, with the beginning-of-text token if the suite has it."""
        tokens = self.tokenize(string, self._add_bos if add_special_tokens is None else False)
        # A chat template may write the beginning-of-text token itself: one is enough.
        twice = len(tokens) > 1 and tokens[0] == tokens[1] == self.eot_token_id
        return tokens[1:] if twice else tokens

    def _last_of(self, tokens: list[int], count: int) -> list[int]:
        """The last `count` tokens; what is lost is said where lm-eval says it of its own models."""
        if len(tokens) > count:
            _LOG.warning("truncated a prompt of %d tokens to %d", len(tokens), count)
        return tokens[-count:]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, whether it is the greedy one) for each request."""
        with self.counting(len(requests)):
            answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        answers = []
        for texts, context, continuation in requests:
            total, greedy = 0.0, True
            for i, token in enumerate(continuation):
                prompt = tuple(self._last_of(context + continuation[:i], self.max_length - 1))
                if prompt != self._last[0]:
                    self._last = (prompt, self.next_token(prompt))
                total += float(self._last[1][token])
                greedy = greedy and int(self._last[1].argmax()) == token
            answers.append((total, greedy))
            self.cache_hook.add_partial("loglikelihood", texts, answers[-1])
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """No task of the suites asks for it."""
        raise ToolError("log-likelihoods of whole texts are not offered by this runtime")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The text generated greedily for each request, up to the first of its stop strings."""
        answers = []
        with self.counting(len(requests)):
            for text, settings in (request.args for request in requests):
                wanted = normalize_gen_kwargs(settings, NEW_TOKENS)
                count = int(wanted["max_gen_toks"])
                if count >= self.max_length:
                    raise ToolError(f"{count} new tokens do not fit into {self.max_length}")
                prompt = self._last_of(self.tok_encode(text), self.max_length - count)
                until = [stop for stop in wanted["until"] if stop]
                answers.append(self.answer(prompt, count, until))
                self.cache_hook.add_partial("generate_until", (text, settings), answers[-1])
        return answers
