"""gradient: parts p1 and p2 blended into the final model."""

from __future__ import annotations

from pathlib import Path

from remerge.errors import RecipeError
from remerge.methods.gradient import Gradient, in_order_for, plan_gradient
from remerge.recipes.methods import Gradient as Node
from remerge.shards.artefact import build, companions_of
from remerge.stages.params import read_params
from remerge.stages.running import SCRATCH, execution, run
from remerge.tensors.checkpoint import open_checkpoint
from remerge.tensors.dtypes import from_torch_name
from remerge.threads import thread_count


def blend() -> Path:
    """Blend `merged/p1` and `merged/p2` into `merged/final`, which is returned."""
    params, out = read_params(), Path("merged/final")
    recipe, section, node = params.recipe, params.gradient, params.recipe.merges.get("final")
    if not isinstance(node, Node):
        raise RecipeError("recipe.merges.final is no gradient merge; compose params.yaml again")
    gradient = Gradient(
        values=tuple(float(value) for value in node.values or section.values),
        along=node.along or section.along,
        blend=node.blend or section.blend,
        containing=section.containing if node.containing is None else node.containing,
    )
    plan = plan_gradient(
        in_order_for(gradient, open_checkpoint("merged/p1")),
        open_checkpoint("merged/p2"),
        gradient,
        dtype=from_torch_name(recipe.dtype),
        shard_bytes=recipe.shard_bytes,
        label="gradient",
    )
    build(
        plan,
        out,
        companions=companions_of("merged/p1"),
        scratch=SCRATCH,
        threads=thread_count(),
        **execution(params.execution),
    )
    return out


if __name__ == "__main__":
    run(blend)
