"""The committed scores of the embedded models are those of any instruction set and thread count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, torch, yaml
from remerge.evaluate import language_models, score, suite_from_params
language_models.SMALL = 0  # let the environment choose the number of threads
values = yaml.safe_load(open("conf/eval/skills.yaml").read().replace(
    "${eval.data}", "embedded/evaluation"))
score("embedded/sources/sorting", suite_from_params(values), sys.argv[1], limit=40)
print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
"""


@pytest.mark.full
def test_scores_have_the_same_bytes_on_other_instruction_sets_and_threads(tmp_path: Path) -> None:
    written, ran = set(), set()
    for capability, threads in (("default", "1"), ("avx2", "2"), ("", "1")):
        out = tmp_path / f"{capability}-{threads}" / "m"
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": threads}
        if capability:
            environment["ATEN_CPU_CAPABILITY"] = capability
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(out)],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        ran.add(result.stdout)
        written.add((out / "scores.json").read_bytes())
    assert len(ran) > 1, "the environment changed nothing"
    assert len(written) == 1
