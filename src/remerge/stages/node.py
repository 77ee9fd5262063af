"""A node of a project's recipe: a bake, or a merge by any method."""

from __future__ import annotations

from pathlib import Path

from remerge.adapters.peft_files import read_adapter
from remerge.baking.bake import plan_bake
from remerge.errors import RecipeError
from remerge.recipes.graph import read_graph
from remerge.recipes.nodes import merges_of
from remerge.recipes.planning import Settings, planned
from remerge.recipes.project import Node, fused
from remerge.recipes.schema import Execution, Recipe
from remerge.shards.artefact import build, companions_of
from remerge.shards.order import in_state_dict_order
from remerge.stages.project import project
from remerge.stages.running import SCRATCH, execution, item_name, run
from remerge.tensors.checkpoint import open_checkpoint
from remerge.tensors.dtypes import from_torch_name, promoted
from remerge.threads import thread_count


def make(name: str) -> Path:
    """Make the node `name`; return its folder."""
    recipe, settings, tables = project()
    if name not in tables.nodes:
        raise RecipeError(f"the recipe has no node {name}; run `remerge sync`")
    node = tables.nodes[name]
    if name in recipe.bakes:
        _bake(recipe, name, node, settings)
    else:
        _merge(recipe, name, node, settings)
    return Path(node.out)


def _bake(recipe: Recipe, name: str, node: Node, settings: Execution) -> None:
    bake = recipe.bakes[name]
    model, _ = in_state_dict_order(open_checkpoint(node.reads[bake.model]))
    adapter = read_adapter(Path(node.reads[bake.adapter]), Path(node.reads[bake.adapter]).name)
    dtype = recipe.dtype
    types = [info.dtype for info in model.tensors.values()]
    plan = plan_bake(
        model,
        adapter,
        dtype=promoted(types) if dtype == "auto" else from_torch_name(dtype),
        shard_bytes=recipe.shard_bytes,
        label=f"bake {name}",
    )
    build(
        plan,
        Path(node.out),
        companions=companions_of(model.folder),
        scratch=SCRATCH,
        threads=thread_count(),
        **execution(settings),
    )


def _merge(recipe: Recipe, name: str, node: Node, settings: Execution) -> None:
    wanted = {name, *fused(recipe, read_graph(recipe), name)}
    merges = [merge for merge in merges_of(recipe) if merge.name in wanted]

    def find(reference: str, revision: str | None) -> Path | None:
        folder = node.reads.get(reference)
        return None if folder is None or revision is not None else Path(folder)

    how = Settings(find, SCRATCH, recipe.shard_bytes, result=name)
    with planned(merges, how) as found:
        build(
            found.plan,
            Path(node.out),
            companions=found.companions,
            config_changes=found.config_changes,
            scratch=SCRATCH,
            threads=thread_count(),
            **execution(settings),
        )


if __name__ == "__main__":
    run(make, item_name())
