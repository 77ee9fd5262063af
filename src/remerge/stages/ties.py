"""What ties_p1 and ties_p2 share: a TIES merge of the donors in the places of one part."""

from __future__ import annotations

from pathlib import Path

from remerge.merge.donors import mapping_folder, open_donor
from remerge.methods.ties import TiesSettings, plan_ties
from remerge.shards.artefact import build, companions_of
from remerge.shards.threads import thread_count
from remerge.stages.params import part_donors, read_params
from remerge.stages.running import SCRATCH, execution
from remerge.tensors.checkpoint import open_checkpoint
from remerge.tensors.dtypes import from_torch_name


def merge_part(part: str) -> None:
    """Merge the donors that `recipe.parts.<part>` names into `merged/<part>`."""
    params = read_params()
    recipe, ties = params["recipe"], params["ties"]
    base = open_checkpoint(recipe["base"])
    with mapping_folder(SCRATCH) as mapped:
        donors = [
            open_donor(
                entry["path"],
                base,
                density=ties["density"] if entry.get("density") is None else entry["density"],
                weight=entry["weight"],
                vocabulary=entry.get("vocabulary"),
                label=entry["name"],
                mapped=mapped,
            )
            for entry in part_donors(recipe, part).values()
        ]
        plan = plan_ties(
            base,
            donors,
            TiesSettings(lam=ties["lambda"], normalize=ties["normalize"], elect=ties["elect"]),
            dtype=from_torch_name(recipe["dtype"]),
            shard_bytes=recipe["shard_bytes"],
            label=f"ties {part}",
        )
        build(
            plan,
            Path("merged") / part,
            companions=companions_of(recipe["base"]),
            scratch=SCRATCH,
            threads=thread_count(),
            **execution(params),
        )
