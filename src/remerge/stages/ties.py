"""What ties_p1 and ties_p2 share: a TIES merge of the donors in the places of one part."""

from __future__ import annotations

from pathlib import Path

from remerge.errors import RecipeError
from remerge.merge.donors import mapping_folder, open_donor
from remerge.methods.ties import TiesSettings, plan_ties
from remerge.recipes.methods import Merge
from remerge.shards.artefact import build, companions_of
from remerge.stages.params import Params, read_params
from remerge.stages.running import SCRATCH, execution
from remerge.tensors.checkpoint import open_checkpoint
from remerge.tensors.dtypes import from_torch_name
from remerge.threads import thread_count


def merge_part(part: str) -> Path:
    """Merge the models of `recipe.merges.<part>` into `merged/<part>`, which is returned."""
    params = read_params()
    node, out = _node(params, part), Path("merged") / part
    given = {**params.ties.model_dump(by_alias=True), **node.given()}
    base_folder = params.tables.places.base
    base = open_checkpoint(base_folder)
    with mapping_folder(SCRATCH) as mapped:
        donors = [
            open_donor(
                folder,
                base,
                density=use.given().get("density", given["density"]),
                weight=use.given().get("weight", given.get("weight", 1.0)),
                vocabulary=use.vocabulary,
                label=label,
                mapped=mapped,
            )
            for (label, use), folder in zip(
                node.uses().items(), params.tables.places.models(part), strict=True
            )
        ]
        settings = TiesSettings(
            lam=given["lambda"], normalize=given["normalize"], elect=given["elect"]
        )
        plan = plan_ties(
            base,
            donors,
            settings,
            dtype=from_torch_name(params.recipe.dtype),
            shard_bytes=params.recipe.shard_bytes,
            label=f"ties {part}",
        )
        build(
            plan,
            out,
            companions=companions_of(base_folder),
            scratch=SCRATCH,
            threads=thread_count(),
            **execution(params.execution),
        )
    return out


def _node(params: Params, part: str) -> Merge:
    """The node of the part; RecipeError unless each of its models has a place."""
    node, folders = params.recipe.merges.get(part), params.tables.places.models(part)
    if node is None or node.method != "ties" or len(node.uses()) != len(folders):
        raise RecipeError(
            f"places.{part} is not of recipe.merges.{part}; compose params.yaml again "
            "(`make params`)"
        )
    return node
