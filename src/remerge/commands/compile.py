"""Compile all kernels for this machine now, and keep them: `make setup` does it.

  remerge compile

A kernel is compiled when it is first needed, half a minute for some. This compiles all of them, for
every type of weights that merges and formats read and write; what is kept already costs nothing.
They are kept beside the package, or below NUMBA_CACHE_DIR.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""


def run(options: argparse.Namespace) -> None:
    """Compile what is not kept yet."""
    import time

    from remerge.formatting import duration
    from remerge.kernels.compiled import COMPILING
    from remerge.progress import track

    COMPILING.be_silent()
    begun = time.monotonic()
    steps = [*_modules(), *_calls()]
    with track(len(steps), "compiling kernels", unit="step", every_s=2.0) as bar:
        for step in steps:
            step()
            bar.advance(1)
    print(f"all kernels are compiled for this machine ({duration(time.monotonic() - begun)})")


def _modules() -> Iterator[Callable[[], object]]:
    """The import of each module that has kernels of stated types: they are compiled on import."""
    import importlib
    from functools import partial

    from remerge.code import PACKAGE

    for path in sorted(PACKAGE.rglob("*.py")):
        if "@kernel(" in path.read_text():
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            yield partial(importlib.import_module, ".".join(parts))


def _calls() -> Iterator[Callable[[], object]]:
    """A small call of each kernel that is compiled for the types it is called with."""
    from functools import partial

    import numpy as np

    from remerge.quantize.blocks import q4_0
    from remerge.quantize.blocks.types import TYPES

    ones = np.ones(256, np.float32)
    yield partial(q4_0.all_finite, ones)
    for kind in TYPES.values():
        yield partial(kind.kernel, ones, np.empty(kind.size(256), np.uint8))
    # NumPy lays out what it selects by its shape, and each layout is a type of its own.
    yield from (partial(_solve, rows, by) for rows in (1, 40) for by in (False, True))


def _solve(rows: int, by_activation: bool) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from remerge.quantize.gptq.solver import solve

    with ThreadPoolExecutor(1) as pool:
        solve(
            np.ones((rows, 256)),
            np.eye(256),
            np.ones((rows, 2)),
            bits=4,
            by_activation=by_activation,
            pool=pool,
        )
