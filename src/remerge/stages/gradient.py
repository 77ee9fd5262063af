"""gradient: parts p1 and p2 blended into the final model."""

from __future__ import annotations

from pathlib import Path

from remerge.methods.gradient import Gradient, plan_gradient
from remerge.shards.artefact import build, companions_of
from remerge.shards.threads import thread_count
from remerge.stages.params import read_params
from remerge.stages.running import SCRATCH, execution, run
from remerge.tensors.checkpoint import open_checkpoint
from remerge.tensors.dtypes import from_torch_name


def blend() -> None:
    """Blend `merged/p1` and `merged/p2` into `merged/final`."""
    params = read_params()
    recipe, gradient = params["recipe"], params["gradient"]
    plan = plan_gradient(
        open_checkpoint("merged/p1"),
        open_checkpoint("merged/p2"),
        Gradient(
            values=tuple(float(value) for value in gradient["values"]),
            along=gradient["along"],
            blend=gradient["blend"],
            containing=gradient["containing"],
        ),
        dtype=from_torch_name(recipe["dtype"]),
        shard_bytes=recipe["shard_bytes"],
        label="gradient",
    )
    build(
        plan,
        Path("merged/final"),
        companions=companions_of("merged/p1"),
        scratch=SCRATCH,
        threads=thread_count(),
        **execution(params),
    )


if __name__ == "__main__":
    run(blend)
