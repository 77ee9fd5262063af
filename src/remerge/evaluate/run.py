"""One model through all tasks of a suite, one task at a time, resumable after each.

Imports lm-eval's evaluator; the caller has switched the network off before.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from lm_eval.api.model import CachingLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from remerge.code import ITEMS, digest_of
from remerge.errors import ToolError
from remerge.evaluate.digests import digest_of_files, digest_of_model, digest_of_values
from remerge.evaluate.quiet import quiet
from remerge.evaluate.results import rounded, suite_as_json
from remerge.evaluate.suite import Suite
from remerge.evaluate.tasks import FEW_SHOT_SEED, data_files
from remerge.runtimes.programs import missing, quant_at
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
        self.scratch = scratch / digest_of_model(folder)[:32] if scratch else None
        packages = ["lm_eval", "torch", "transformers", *self._runtime_packages()]
        self.versions = {package: version(package) for package in packages}
        self._settings = {
            "dtype": suite.dtype,
            "device": suite.device,
            "batch_size": suite.batch_size,
            "add_bos_token": suite.add_bos_token,
            "chat_template": suite.chat_template,
            "fewshot_as_multiturn": suite.fewshot_as_multiturn,
            **self.versions,
            "code": digest_of(*ITEMS["evaluate"]),
        }

    def _runtime_packages(self) -> list[str]:
        """The package of the quant's runtime; ToolError if it is not installed."""
        if self.quant is None:
            return []
        try:
            version(self.quant.package)
        except PackageNotFoundError:
            raise missing(self.quant.path, self.quant.package) from None
        return [self.quant.package]

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
        keys = self._keys() if self.scratch else {}
        records = {}
        for name, (metric, task) in tasks.items():
            kept = self.scratch / f"{name}-{keys[name][:32]}.json" if self.scratch else None
            record = _read(kept)
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

    def _keys(self) -> dict[str, str]:
        keys = {}
        for benchmark, values in zip(
            self.suite.benchmarks, suite_as_json(self.suite)["benchmarks"], strict=True
        ):
            values = {k: v for k, v in values.items() if k not in ("data", "metric")}
            for name, files in data_files(benchmark).items():
                data = {split: digest_of_files([path]) for split, path in files.items()}
                limit = self.suite.limit
                keys[name] = digest_of_values([self._settings, values, data, limit, FEW_SHOT_SEED])
        return keys

    def _run(self, name: str, task: ConfigurableTask) -> dict[str, Any]:
        with quiet() as truncations:
            model = self._model
            model.label = f"{self.name} {name}"
            random.seed(SEED)
            np.random.seed(SEED)
            torch.manual_seed(SEED)
            task.set_fewshot_seed(FEW_SHOT_SEED)
            if self.scratch:
                cache = self.scratch / f"answers-{digest_of_values(self._settings)[:32]}.db"
                model = CachingLM(model, str(cache))
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
                if self.scratch:
                    model.dbdict.close()
        record = {
            "metrics": {
                key: value
                for key, value in outcome["results"][name].items()
                if isinstance(value, float | int) and "," in key and "_stderr" not in key
            },
            "items": outcome["n-samples"][name]["effective"],
            "samples": [_sample(sample) for sample in outcome["samples"][name]],
        }
        if truncations.seen:
            record["note"] = (
                f"{name}: some prompts are longer than the model's context and lost their beginning"
            )
        plain: dict[str, Any] = json.loads(json.dumps(record, default=_plain))
        return plain


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth keeping of lm-eval's record of an item; the prompt is kept by its digest."""
    kept = {key: sample[key] for key in sample["metrics"]}
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


def _read(path: Path | None) -> dict[str, Any] | None:
    """A finished task, or None where there is none (or a damaged one, which is done again)."""
    if path is None or not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        return None
    return record if isinstance(record, dict) and "metrics" in record else None
