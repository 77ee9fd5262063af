"""The model behind an evaluation: transformers through lm-eval's own HFLM.

A quantised model runs in its own runtime, see `llama_cpp`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

from remerge.errors import CheckpointError, NumericError, RecipeError, RemergeError, ToolError
from remerge.evaluate.precision import compute_in_float64
from remerge.evaluate.progress_hook import ShowsProgress
from remerge.evaluate.suite import Suite
from remerge.runtimes.loadable import require_known, require_loadable, require_whole
from remerge.vocabulary.chat_template import own_template

SMALL = 50_000_000
"""Parameters below which a matrix product is done before a second thread has woken up."""


class _WholeModels:
    """The loader that lm-eval calls: weights that do not fill the model are refused."""

    @staticmethod
    def from_pretrained(folder: str, **settings: Any) -> Any:
        """See `transformers.AutoModelForCausalLM`."""
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, **settings, output_loading_info=True
        )
        require_whole(loading, Path(folder))
        return model


class TransformersModel(ShowsProgress, HFLM):
    """lm-eval's HFLM with the bar of `remerge.progress` in place of its own."""

    AUTO_MODEL_CLASS = _WholeModels

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.set_cache_hook(CacheHook(None))

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, whether it is the greedy one) for each request."""
        with self.counting(len(requests)):
            answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The text generated for each request, up to the first of its stop strings."""
        with self.counting(len(requests)):
            answers: list[str] = super().generate_until(requests, disable_tqdm=True)
        return answers


def load_transformers(folder: Path, suite: Suite) -> TransformersModel:
    """The model in `folder` ready to be scored, in the suite's type and on its device.

    Raises CheckpointError if transformers cannot load it, RecipeError for a model without the chat
    template that is asked for, ToolError for a device that is not
    there, NumericError if a first forward pass gives NaN or Inf.
    """
    if suite.device.startswith("cuda") and not torch.cuda.is_available():
        raise ToolError(f"eval.device: {suite.device} is not available here; use cpu")
    require_loadable(folder)
    require_known(folder)
    if suite.chat_template and own_template(folder) is None:
        raise RecipeError(
            f"{folder}: has no chat template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json); score it without --chat-template, eval.chat_template=false"
        )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        model = TransformersModel(
            pretrained=str(folder),
            backend="causal",
            device=suite.device,
            dtype=suite.dtype,
            batch_size=suite.batch_size,
            add_bos_token=suite.add_bos_token,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except RemergeError:
        raise
    except Exception as error:  # whatever a library makes of a file that anybody wrote
        line = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: transformers cannot load it: {line}") from error
    if suite.device == "cpu" and model.model.num_parameters() < SMALL:
        torch.set_num_threads(1)
    if suite.dtype == "float64":
        compute_in_float64(model.model)
    _check_finite(model, folder)
    return model


def _check_finite(model: Any, folder: Path) -> None:
    tokens = torch.tensor([[model.prefix_token_id] * 2], device=model.device)
    with torch.no_grad():
        logits = model.model(tokens).logits
    if not bool(torch.isfinite(logits).all()):
        raise NumericError(
            f"{folder}: its logits are NaN or Inf in {model.model.dtype}; the weights are damaged"
            " or overflow this type"
        )
