"""Keep the libraries' chatter off the terminal, and hear the one thing in it that matters."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import datasets
import lm_eval.api.model
import lm_eval.api.task
import transformers
from tqdm import tqdm


class Truncations(logging.Handler):
    """Notices that lm-eval cut the beginning off a prompt, which it says in a warning only."""

    seen = False

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one line of the log."""
        if "truncat" in record.getMessage().lower():
            self.seen = True


@contextlib.contextmanager
def quiet() -> Iterator[Truncations]:
    """Without lm-eval's warnings and bars while the block runs; failures are raised as ever."""
    truncations = Truncations()
    log = logging.getLogger("lm_eval")
    level, propagate = log.level, log.propagate
    log.addHandler(truncations)
    log.setLevel(logging.WARNING)
    log.propagate = False
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    drawn: list[tuple[Any, Any]] = []
    for module in (lm_eval.api.task, lm_eval.api.model):
        drawn.append((module, module.tqdm))
        module.tqdm = partial(tqdm, disable=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield truncations
    finally:
        for module, bar in drawn:
            module.tqdm = bar
        log.removeHandler(truncations)
        log.setLevel(level)
        log.propagate = propagate
