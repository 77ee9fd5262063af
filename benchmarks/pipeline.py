r"""The pipeline as a whole: from nothing, with nothing to do, the start of a stage, DVC's hashing.

    python -m benchmarks.pipeline --work /var/tmp/bench --gigabytes 4

Works in a clone of this checkout with a cache of its own. `hash` is what DVC adds to a stage with
so large an output: MD5 of each shard, a hard link into the cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import run

ROOT = Path(__file__).parents[1]
SHARD = 1_000_000_000
STAGES = ("fetch", "bake_loras", "ties_p1", "gradient", "quantize_eval", "report")


def row(name: str, seconds: float, note: str = "") -> None:
    """One row of the table."""
    print(f"| {name} | {seconds:.2f} | {note} |", flush=True)


def start_of(stage: str) -> float:
    """Seconds from nothing to a stage that has loaded its code, kernels compiled before."""
    command = [sys.executable, "-c", f"import remerge.stages.{stage}"]
    run(command)
    return min(run(command).wall for _ in range(3))


def hashing(work: Path, gigabytes: float) -> float:
    """Seconds that `dvc commit` takes over an output of that size in shards."""
    shutil.rmtree(work, ignore_errors=True)
    (work / "out").mkdir(parents=True)
    for number in range(max(1, round(gigabytes * 1e9 / SHARD))):
        size = min(SHARD, int(gigabytes * 1e9))
        with (work / "out" / f"shard{number}").open("wb") as file:
            for _ in range(size // 1_000_000):
                file.write(os.urandom(1_000_000))
    (work / "dvc.yaml").write_text("stages: {made: {cmd: 'true', outs: [out]}}\n")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"],
                    ["dvc", "config", "cache.type", "hardlink"],
                    ["dvc", "config", "core.checksum_jobs", str(os.cpu_count())]):  # fmt: skip
        subprocess.run(command, cwd=work, check=True)
    cost = run(["dvc", "--cd", str(work), "commit", "-q", "-f"])
    shutil.rmtree(work)
    return cost.wall


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the clone")
    parser.add_argument("--gigabytes", type=float, default=4, help="output for DVC to hash")
    parser.add_argument("--no-build", action="store_true", help="leave the clone out")
    options = parser.parse_args()
    work = options.work.resolve() / "pipeline"
    print("| what | seconds | |")
    print("|---|--:|---|")
    for stage in STAGES:
        row(f"start of {stage}", start_of(stage))
    seconds = hashing(work, options.gigabytes)
    row("hash", seconds, f"{options.gigabytes:g} GB, {options.gigabytes / seconds:.2f} GB/s")
    if not options.no_build:
        shutil.rmtree(work, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(work)], check=True)
        repro = ["dvc", "--cd", str(work), "repro", "-q"]
        own = {"PYTHONPATH": str(work / "src"), "DVC_NO_ANALYTICS": "1"}
        row("dvc repro from nothing", run(repro, own).wall, "kernels compiled on the way")
        row("dvc repro again", min(run(repro, own).wall for _ in range(3)), "nothing to do")
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
