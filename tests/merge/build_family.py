"""Merge a family of models in a process of its own and print what came out, digest by digest.

python -m tests.merge.build_family FOLDER THREADS BLOCK SHARD_BYTES
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from remerge.adapters.peft_files import read_adapter
from remerge.baking.bake import plan_bake
from remerge.methods.gradient import Gradient, plan_gradient
from remerge.methods.ties import Donor, TiesSettings, plan_ties
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import open_checkpoint


def main() -> None:
    """Print model ids, statistics and file digests of a TIES, a gradient and a bake."""
    folder, threads, block, shard_bytes = Path(sys.argv[1]), *map(int, sys.argv[2:])
    base = open_checkpoint(folder / "base")
    donors = [open_checkpoint(folder / name) for name in "xyz"]
    common = {"dtype": "F16", "shard_bytes": shard_bytes}
    plans = {
        "ties": plan_ties(base, [Donor(d, 0.33) for d in donors], TiesSettings(), **common),
        "count": plan_ties(
            base, [Donor(d, 0.9, 0.5) for d in donors], TiesSettings(elect="count"), **common
        ),
        "gradient": plan_gradient(donors[0], donors[1], Gradient((0.1, 0.9)), **common),
        "bake": plan_bake(base, read_adapter(folder / "adapter"), **common),
    }
    results = {}
    for name, plan in plans.items():
        out = folder / f"out-{name}-{threads}-{block}-{shard_bytes}"
        manifest = build(
            replace(plan, block=block),
            out,
            companions=companions_of(base.folder),
            scratch=folder / "scratch",
            threads=threads,
        )
        files = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(out.iterdir())
        }
        results[name] = {"tensors": manifest["tensors"], "id": manifest["model_id"], "files": files}
        shutil.rmtree(out)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
