"""Methods give the same bytes for every thread count, block size and instruction set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from remerge.arithmetic.philox import draw_key, draws
from remerge.methods.method import REQUIRED
from remerge.methods.registry import METHODS
from tests.methods.digests import GIVEN, family, method_digests
from tests.methods.running import inputs_of, merged

ROOT = Path(__file__).parents[2]


def test_every_method_has_digests() -> None:
    assert GIVEN.keys() == METHODS.keys()


@pytest.mark.full
def test_bytes_do_not_depend_on_threads_blocks_or_processor() -> None:
    wanted = method_digests()
    for threads, block in ((3, 8), (7, 4096)):
        assert method_digests(threads, block) == wanted
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": "generic",
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
    }
    command = [sys.executable, "-m", "tests.methods.digests"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == wanted


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_share_of_kept_entries_is_the_density(density: float) -> None:
    shape = (512, 512)
    for method in ("dare_linear", "della_linear"):
        given = {"density": density, "rescale": False}
        if method == "della_linear":
            given["epsilon"] = 0.05
        _, statistics = merged(method, inputs_of(family(shape, 3), True), given)
        for kept in statistics["kept"]:
            deviation = (density * (1 - density) * 512 * 512) ** 0.5
            assert abs(kept - density * 512 * 512) < 5 * deviation


def test_draws_of_tensors_donors_and_seeds_are_independent() -> None:
    size = 1 << 16
    found = []
    for seed, position, name in ((0, 0, "a"), (0, 1, "a"), (1, 0, "a"), (0, 0, "b")):
        out = np.empty(size, np.uint32)
        draws(*draw_key(seed, position, name), 0, out)
        found.append(out / 2**32 - 0.5)
    for i, left in enumerate(found):
        assert abs(left.mean()) < 5 * (1 / 12 / size) ** 0.5
        for right in found[:i]:
            assert abs(np.mean(left * right)) < 5 * (1 / 12) / size**0.5


@pytest.mark.parametrize("method", sorted(METHODS))
def test_ranges_and_defaults_agree(method: str) -> None:
    for parameter in METHODS[method].parameters:
        assert parameter.description
        for value in {parameter.default, parameter.mergekit} - {REQUIRED}:
            if value is not None:
                assert parameter.check(value, method) == value
