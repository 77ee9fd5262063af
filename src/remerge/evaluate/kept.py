"""Finished tasks that are kept: where, and under which keys.

>>> kept = Kept.of(folder, suite, Path("scratch/evaluate"), versions_for(folder))
>>> kept.path("addition").name
'addition-5f0c….json'
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from remerge.code import ITEMS, digest_of
from remerge.evaluate.digests import digest_of_files, digest_of_model, digest_of_values
from remerge.evaluate.results import suite_as_json
from remerge.evaluate.suite import Benchmark, Suite
from remerge.runtimes.programs import missing, quant_at

FEW_SHOT_SEED = 1234
"""lm-eval's own default: it decides which examples are shown before each question."""


def data_files(benchmark: Benchmark) -> dict[str, dict[str, Path]]:
    """For each task that a benchmark consists of, the file of each split."""
    if benchmark.kind == "skill":
        return {benchmark.name: {"test": benchmark.data}}
    subjects = benchmark.subjects or ("",)
    return {
        f"{benchmark.name}.{subject}" if subject else benchmark.name: {
            split: benchmark.data / file.replace("{subject}", subject)
            for split, file in benchmark.splits.items()
        }
        for subject in subjects
    }


def versions_for(folder: Path) -> dict[str, str]:
    """Versions of the packages that an answer depends on; ToolError without a quant's runtime."""
    quant = quant_at(folder)
    found = {package: version(package) for package in ("lm_eval", "torch", "transformers")}
    if quant is not None:
        try:
            found[quant.package] = version(quant.package)
        except PackageNotFoundError:
            raise missing(quant.path, quant.package) from None
    return found


@dataclass(frozen=True)
class Kept:
    """Where the finished tasks of one model lie.

    Attributes:
        folder: Of this model, named by a digest of it.
        settings: A digest of all that answers of every task depend on.
        keys: A digest by task, of its data and parameters too.
    """

    folder: Path
    settings: str
    keys: Mapping[str, str]

    @staticmethod
    def of(model: Path, suite: Suite, scratch: Path, versions: Mapping[str, str]) -> Kept:
        """Return the places for the model in a folder, or in a file of its own."""
        settings = {
            "dtype": suite.dtype,
            "device": suite.device,
            "batch_size": suite.batch_size,
            "add_bos_token": suite.add_bos_token,
            "chat_template": suite.chat_template,
            "fewshot_as_multiturn": suite.fewshot_as_multiturn,
            **versions,
            "code": digest_of(*ITEMS["evaluate"]),
        }
        return Kept(
            scratch / digest_of_model(model)[:32],
            digest_of_values(settings),
            _keys(suite, settings),
        )

    def path(self, task: str) -> Path:
        """Return the file of a finished task."""
        return self.folder / f"{task}-{self.keys[task][:32]}.json"

    @property
    def answers(self) -> Path:
        """The file of the answers of a task that is not finished."""
        return self.folder / f"answers-{self.settings[:32]}.db"


def _keys(suite: Suite, settings: Mapping[str, Any]) -> dict[str, str]:
    keys = {}
    for benchmark, values in zip(suite.benchmarks, suite_as_json(suite)["benchmarks"], strict=True):
        values = {k: v for k, v in values.items() if k not in ("data", "metric")}
        for name, files in data_files(benchmark).items():
            data = {split: digest_of_files([path]) for split, path in files.items()}
            keys[name] = digest_of_values([settings, values, data, suite.limit, FEW_SHOT_SEED])
    return keys


def read_record(path: Path | None) -> dict[str, Any] | None:
    """A finished task, or None where there is none (or a damaged one, which is done again)."""
    if path is None or not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        return None
    return record if isinstance(record, dict) and "metrics" in record else None
