"""What ties_p1 and ties_p2 share: a TIES merge of the donors in the places of one part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from remerge.errors import RecipeError
from remerge.merge.donors import mapping_folder, open_donor
from remerge.merge.vocabularies import (
    with_chat_template,
    with_one_vocabulary,
    written_choice,
)
from remerge.methods.ties import TiesSettings, plan_ties
from remerge.recipes.methods import Ties
from remerge.shards.artefact import build, companions_of
from remerge.shards.threads import thread_count
from remerge.stages.params import Params, read_params
from remerge.stages.running import SCRATCH, execution
from remerge.tensors.checkpoint import open_checkpoint
from remerge.tensors.dtypes import from_torch_name


def merge_part(part: str) -> Path:
    """Merge the models of `recipe.merges.<part>` into `merged/<part>`, which is returned."""
    params = read_params()
    node, ties, out = _node(params, part), params.ties, Path("merged") / part
    base_folder = params.tables.places.base
    base = open_checkpoint(base_folder)
    density = ties.density if node.density is None else node.density
    choice = written_choice(node.tokenizer)
    companions, changes = companions_of(base_folder), dict[str, Any]()
    folders = params.tables.places.models(part)
    with mapping_folder(SCRATCH) as mapped:
        donors = [
            open_donor(
                folder,
                base,
                density=density if use.density is None else use.density,
                weight=use.weight,
                vocabulary="one" if choice else use.vocabulary,
                label=label,
                mapped=mapped,
            )
            for (label, use), folder in zip(node.models.items(), folders, strict=True)
        ]
        if choice is not None:
            shared = with_one_vocabulary([base, *(d.model for d in donors)], choice, mapped)
            companions, changes = shared.companions, shared.config_changes
            base, *models = shared.models
            donors = [
                replace(donor, model=model, rows=shared.digest)
                for donor, model in zip(donors, models, strict=True)
            ]
            donors[0] = replace(donors[0], notes=shared.notes)
        if node.chat_template is not None:
            models = [base, *(donor.model for donor in donors)]
            companions = with_chat_template(companions, node.chat_template, models, mapped)
        settings = TiesSettings(
            lam=ties.lam if node.lam is None else node.lam,
            normalize=ties.normalize if node.normalize is None else node.normalize,
            elect=ties.elect if node.elect is None else node.elect,
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
            companions=companions,
            config_changes=changes,
            scratch=SCRATCH,
            threads=thread_count(),
            **execution(params.execution),
        )
    return out


def _node(params: Params, part: str) -> Ties:
    """The node of the part; RecipeError unless each of its models has a place."""
    node, folders = params.recipe.merges.get(part), params.tables.places.models(part)
    if not isinstance(node, Ties) or len(node.models) != len(folders):
        raise RecipeError(
            f"places.{part} is not of recipe.merges.{part}; compose params.yaml again "
            "(`make params`)"
        )
    return node
