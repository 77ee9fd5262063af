"""One model through all tasks of a suite, one task at a time, resumable after each.

Imports lm-eval's evaluator; the caller has switched the network off before.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from lm_eval.api.model import CachingLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from remerge.errors import ToolError
from remerge.evaluate.kept import FEW_SHOT_SEED, Kept, read_record, versions_for
from remerge.evaluate.quiet import quiet
from remerge.evaluate.results import rounded
from remerge.evaluate.suite import Suite
from remerge.runtimes.programs import quant_at
from remerge.tensors.json_files import write_json
from remerge.watchdog import alive

SEED = 1234


class Run:
    """The tasks of `suite` on the model in `folder`, or in a file of its own.

    scratch: folder for finished tasks and cached answers, or None.
    quant: the file, if it has a runtime of its own.
    versions: of the packages that an answer depends on, by name.
    """

    def __init__(self, name: str, folder: Path, suite: Suite, scratch: Path | None) -> None:
        self.name = name
        self.folder = folder
        self.suite = suite
        self.quant = quant_at(folder)
        self.versions = versions_for(folder)
        self.kept = Kept.of(folder, suite, scratch, self.versions) if scratch else None

    @cached_property
    def _model(self) -> Any:
        """Loaded when the first task needs it, so a finished run loads nothing."""
        alive("load", about=str(self.folder))
        model = self._load()
        alive("step")
        return model

    def _load(self) -> Any:
        if self.quant and self.quant.runtime == "llama.cpp":
            from remerge.evaluate.llama_cpp import load_gguf

            return load_gguf(self.quant.path, self.suite)
        if self.quant:
            from remerge.evaluate.legacy_ggml import load_ggml

            return load_ggml(self.quant.path, self.suite)
        from remerge.evaluate.language_models import load_transformers

        return load_transformers(self.folder, self.suite)

    def records(
        self, tasks: Mapping[str, tuple[str, ConfigurableTask]]
    ) -> dict[str, dict[str, Any]]:
        """What is known of each task afterwards.

        `value` (the metric that counts), `metrics` (all of them), `items` (how many), `samples`
        (one each) and, where there is something to say, `note`.
        """
        records = {}
        for name, (metric, task) in tasks.items():
            kept = self.kept.path(name) if self.kept else None
            record = read_record(kept)
            if record is None:
                record = self._run(name, task)
                rounded(record["metrics"].get(metric, 0.0), f"{self.name}: {name}")
                record = finite(record)
                if kept:
                    write_json(kept, record)
            if metric not in record["metrics"]:
                known = ", ".join(sorted(record["metrics"]))
                raise ToolError(f"{name}: lm-eval gave no {metric!r}, only {known}")
            records[name] = {**record, "value": record["metrics"][metric]}
        return records

    def _run(self, name: str, task: ConfigurableTask) -> dict[str, Any]:
        with quiet() as truncations:
            model = self._model
            model.label = f"{self.name} {name}"
            random.seed(SEED)
            np.random.seed(SEED)
            torch.manual_seed(SEED)
            task.set_fewshot_seed(FEW_SHOT_SEED)
            if self.kept:
                model = CachingLM(model, str(self.kept.answers))
            try:
                with torch.no_grad():
                    outcome = evaluate(
                        model,
                        {"tasks": {name: task}, "groups": {}, "group_map": {}},
                        limit=self.suite.limit,
                        bootstrap_iters=0,
                        log_samples=True,
                        apply_chat_template=self.suite.chat_template,
                        fewshot_as_multiturn=self.suite.fewshot_as_multiturn,
                    )
            except (
                AssertionError,
                RuntimeError,
                ValueError,
                KeyError,
                IndexError,
                TemplateError,
            ) as error:
                line = " ".join(str(error).split()) or type(error).__name__
                raise ToolError(f"{self.name}: {name}: lm-eval failed: {line}") from error
            finally:
                if self.kept:
                    model.dbdict.close()
        record = {
            "metrics": {
                key: value
                for key, value in outcome["results"][name].items()
                if isinstance(value, float | int) and "," in key and "_stderr" not in key
            },
            "items": outcome["n-samples"][name]["effective"],
            "samples": [_sample(sample, task) for sample in outcome["samples"][name]],
        }
        if truncations.seen:
            record["note"] = (
                f"{name}: some prompts are longer than the model's context and lost their beginning"
            )
        plain: dict[str, Any] = json.loads(json.dumps(record, default=_plain))
        return plain


def _sample(sample: Mapping[str, Any], task: ConfigurableTask) -> dict[str, Any]:
    """What is worth keeping of lm-eval's record of an item.

    The prompt is kept by its digest, and where text is generated its question as well.
    """
    kept = {key: sample[key] for key in sample["metrics"]}
    if task.OUTPUT_TYPE == "generate_until":
        kept["question"] = task.doc_to_text(sample["doc"])
    for key in ("doc_id", "doc", "target", "filter", "resps", "filtered_resps", "prompt_hash"):
        kept[key] = sample[key]
    return kept


def finite(value: Any) -> Any:
    """JSON values with NaN and Inf, which are no JSON, as text: the logarithm of a probability of 0
    that some runtime tells is `-inf`.
    """
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """Numbers of NumPy as JSON has them, anything else as text."""
    return value.item() if isinstance(value, np.generic) else str(value)
