"""What ties_p1 and ties_p2 share: a TIES merge of the donors in the places of one part."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from remerge.merge.ties import Donor, TiesSettings, plan_ties
from remerge.merge.vocabulary import map_vocabulary, require_same_tokens
from remerge.shards.artefact import build, companions_of
from remerge.shards.threads import thread_count
from remerge.tensors.checkpoint import Checkpoint, open_checkpoint
from remerge.tensors.dtypes import from_torch_name
from remerge.tensors.fitting import Note
from stages.params import part_donors, read_params
from stages.running import SCRATCH, execution


def merge_part(part: str) -> None:
    """Merge the donors that `recipe.parts.<part>` names into `merged/<part>`."""
    params = read_params()
    recipe, ties = params["recipe"], params["ties"]
    base, mapped = open_checkpoint(recipe["base"]), SCRATCH / "vocabulary" / part
    plan = plan_ties(
        base,
        [_donor(entry, ties, base, mapped) for entry in part_donors(recipe, part).values()],
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
    shutil.rmtree(mapped, ignore_errors=True)


def _donor(entry: dict[str, Any], ties: dict[str, Any], base: Checkpoint, mapped: Path) -> Donor:
    own, vocabulary = entry.get("density"), entry.get("vocabulary")
    model = open_checkpoint(entry["path"], entry["name"])
    notes: list[Note] = []
    if vocabulary == "map":
        model, notes = map_vocabulary(model, base, mapped)
    else:
        require_same_tokens(model, base)
    return Donor(
        model=model,
        density=ties["density"] if own is None else own,
        weight=entry["weight"],
        vocabulary=vocabulary,
        notes=tuple(notes),
    )
