"""gradient: parts p1 and p2 blended into the final model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remerge.errors import RecipeError
from remerge.merge.donors import mapping_folder
from remerge.merge.vocabularies import (
    with_chat_template,
    with_one_vocabulary,
    written_choice,
)
from remerge.methods.gradient import Gradient, Vocabulary, in_order_for, plan_gradient
from remerge.recipes.methods import Gradient as Node
from remerge.shards.artefact import build, companions_of
from remerge.shards.threads import thread_count
from remerge.stages.params import read_params
from remerge.stages.running import SCRATCH, execution, run
from remerge.tensors.checkpoint import open_checkpoint
from remerge.tensors.dtypes import from_torch_name


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
    first, second = open_checkpoint("merged/p1"), open_checkpoint("merged/p2")
    choice = written_choice(node.tokenizer)
    companions, changes = companions_of("merged/p1"), dict[str, Any]()
    with mapping_folder(SCRATCH) as mapped:
        first, vocabulary = in_order_for(gradient, first), None
        if choice is not None:
            shared = with_one_vocabulary([first, second], choice, mapped)
            companions, changes = shared.companions, shared.config_changes
            first, second = shared.models
            vocabulary = Vocabulary("one", shared.notes, shared.digest)
        if node.chat_template is not None:
            companions = with_chat_template(companions, node.chat_template, [first, second], mapped)
        plan = plan_gradient(
            first,
            second,
            gradient,
            dtype=from_torch_name(recipe.dtype),
            shard_bytes=recipe.shard_bytes,
            label="gradient",
            vocabulary=vocabulary,
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


if __name__ == "__main__":
    run(blend)
