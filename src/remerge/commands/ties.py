r"""Merge donors into a base by TIES: trim each task vector, elect a sign, merge what agrees.

  remerge ties models/base models/chronos models/airoboros:0.5 models/hermes:0.5:2 --out merged

Three donors: chronos at the default density, airoboros at density 0.5, hermes at density 0.5 with
twice the weight. Where a donor has tokens that the base lacks, say what becomes of their rows, for
all donors by --vocabulary or for one behind its weight:

  remerge ties models/base models/chronos models/hermes:0.5:1:truncate --out merged

Or give the result the tokens of all, with a rule for a token that some lack:

  remerge ties models/base models/chronos models/hermes --tokenizer union \
    --token '<|im_start|>=models/hermes' --pad-to-multiple-of 64 --out merged
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from remerge.commands.common import (
    add_output_options,
    add_vocabulary_options,
    build_options,
    parse_size,
    plain_folders,
    tokenizer_choice,
)


class _Named(NamedTuple):
    """A donor as the command line names it."""

    folder: str
    density: float
    weight: float
    vocabulary: str | None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("base", type=Path, help="folder of the base model (safetensors)")
    parser.add_argument(
        "donors",
        nargs="+",
        metavar="DONOR[:DENSITY[:WEIGHT[:VOCABULARY]]]",
        help="folder of a fine-tune of the base; what is left out or empty is the default",
    )
    parser.add_argument(
        "--density",
        type=float,
        default=0.33,
        help="share of each task vector that is kept, in (0, 1] (default: %(default)s)",
    )
    parser.add_argument(
        "--lambda",
        dest="lam",
        metavar="LAM",
        type=float,
        default=1.0,
        help="factor of the merged task vector before it is added to the base (default: 1)",
    )
    parser.add_argument(
        "--elect",
        choices=("sum", "count"),
        default="sum",
        help="how an entry's sign is elected: by the weighted sum of what the donors keep, or by "
        "how many of them are positive and negative (default: %(default)s)",
    )
    parser.add_argument(
        "--no-normalize",
        dest="normalize",
        action="store_false",
        help="add up the donors that agree; without it they are averaged by their weights",
    )
    parser.add_argument(
        "--vocabulary",
        choices=("truncate", "map", "rows"),
        help="rows of the donors' vocabularies: leave out those beyond the base's, put each where "
        "the base has its token, or take them by number whatever tokens they are of; without a "
        "rule, other rows are an error",
    )
    add_vocabulary_options(parser)
    add_output_options(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.merge.donors import mapping_folder, open_donor, under_rule
    from remerge.merge.vocabularies import with_chat_template, with_one_vocabulary
    from remerge.methods.ties import Donor, TiesSettings, plan_ties
    from remerge.shards.artefact import build, companions_of
    from remerge.shards.inputs import distinct_labels
    from remerge.shards.order import in_state_dict_order
    from remerge.tensors.checkpoint import open_checkpoint
    from remerge.tensors.dtypes import from_torch_name

    named = [_named(text, options) for text in options.donors]
    settings = build_options(options)
    base_label, *labels = distinct_labels([options.base, *(donor.folder for donor in named)])
    texts = [str(options.base), *(donor.folder for donor in named)]
    choice = tokenizer_choice(options, dict(zip(texts, [base_label, *labels], strict=True)))
    with (
        plain_folders(options, settings) as plain,
        mapping_folder(settings["scratch"]) as mapped,
    ):
        base_folder = plain.folder(options.base)
        base, _ = in_state_dict_order(open_checkpoint(base_folder, base_label))
        folders = [plain.folder(Path(donor.folder)) for donor in named]
        companions, changes = companions_of(base_folder), dict[str, Any]()
        if choice is None:
            donors = [
                open_donor(
                    folder,
                    base,
                    density=donor.density,
                    weight=donor.weight,
                    vocabulary=donor.vocabulary,
                    label=label,
                    mapped=mapped,
                )
                for donor, folder, label in zip(named, folders, labels, strict=True)
            ]
        else:
            ruled = [
                under_rule(open_checkpoint(folder, label), base, "one", mapped)
                for folder, label in zip(folders, labels, strict=True)
            ]
            models = [base, *(each.model for each in ruled)]
            shared = with_one_vocabulary(models, choice, mapped)
            companions, changes = shared.companions, shared.config_changes
            base, *models = shared.models
            donors = [
                Donor(model, donor.density, donor.weight, "one", each.notes, shared.digest)
                for donor, model, each in zip(named, models, ruled, strict=True)
            ]
            donors[0] = replace(donors[0], notes=(*donors[0].notes, *shared.notes))
        if options.chat_template:
            models = [base, *(donor.model for donor in donors)]
            companions = with_chat_template(companions, options.chat_template, models, mapped)
        plan = plan_ties(
            base,
            donors,
            TiesSettings(lam=options.lam, normalize=options.normalize, elect=options.elect),
            dtype=from_torch_name(options.dtype),
            shard_bytes=parse_size(options.shard_size),
        )
        manifest = build(
            plan, options.out, companions=companions, config_changes=changes, **settings
        )
    print(f"{manifest['model_id']}  {options.out}")


def _named(text: str, options: argparse.Namespace) -> _Named:
    from remerge.errors import RecipeError

    folder, *rest = text.split(":")
    wrong = RecipeError(f"donor {text!r} is not FOLDER[:DENSITY[:WEIGHT[:VOCABULARY]]]")
    if not folder or len(rest) > 3:
        raise wrong
    density, weight, vocabulary = (*rest, "", "", "")[:3]
    try:
        return _Named(
            folder,
            float(density) if density else options.density,
            float(weight) if weight else 1.0,
            vocabulary or options.vocabulary,
        )
    except ValueError:
        raise wrong from None
