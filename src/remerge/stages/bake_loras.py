"""bake_loras: one adapter into one donor."""

from __future__ import annotations

from pathlib import Path

from remerge.adapters.peft_files import read_adapter
from remerge.baking.bake import plan_bake
from remerge.shards.artefact import build, companions_of
from remerge.shards.inputs import distinct_labels
from remerge.stages.params import item, read_params
from remerge.stages.running import SCRATCH, execution, item_name, run
from remerge.tensors.checkpoint import open_checkpoint
from remerge.tensors.dtypes import from_torch_name
from remerge.threads import thread_count


def bake(name: str) -> Path:
    """Bake the entry `name` of the recipe's bakes; return its folder."""
    params = read_params()
    recipe = params.recipe
    entry = item(params.tables.bake_loras, name, "bake_loras")
    label, adapter_label = distinct_labels([entry.model, entry.adapter])
    plan = plan_bake(
        open_checkpoint(entry.model, label),
        read_adapter(entry.adapter, adapter_label),
        dtype=from_torch_name(recipe.dtype),
        shard_bytes=recipe.shard_bytes,
        label=f"bake {name}",
    )
    build(
        plan,
        Path(entry.out),
        companions=companions_of(entry.model),
        scratch=SCRATCH,
        threads=thread_count(),
        **execution(params.execution),
    )
    return Path(entry.out)


if __name__ == "__main__":
    run(bake, item_name())
