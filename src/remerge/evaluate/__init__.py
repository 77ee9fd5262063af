"""Score a model on a suite of tasks through lm-eval, with nothing fetched from a network.

>>> suite = suite_from_params(params["eval"])
>>> score("merged/final", suite, "scores/final")["average"]

Nothing heavy is imported until a model is scored: `suite` and `results` read and compare, `tasks`
builds lm-eval's task objects from local files, `scoring` runs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remerge.evaluate.results import compare
    from remerge.evaluate.scoring import Model, score, score_many
    from remerge.evaluate.suite import Benchmark, Suite, suite_from_params

__all__ = ["Benchmark", "Model", "Suite", "compare", "score", "score_many", "suite_from_params"]

_HOME = {
    "Benchmark": "suite",
    "Suite": "suite",
    "suite_from_params": "suite",
    "Model": "scoring",
    "score": "scoring",
    "score_many": "scoring",
    "compare": "results",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
