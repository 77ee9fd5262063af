"""Blend two models by a ratio that changes along them (BlockMerge_Gradient).

  remerge gradient merged/p1 merged/p2 0 0.35 0.65 1 --out merged/final

The values are shares of the second model: here 0 at the first tensor and 1 at the last, rising in
three sections. `0.5 0.5` is the mean of the two models. One ratio for each layer, and only within
the layers:

  remerge gradient run1/final run2/final 0 1 --along layers --blend layers --out blended
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from remerge.commands.common import (
    add_output_options,
    add_vocabulary_options,
    build_options,
    parse_size,
    plain_folders,
    tokenizer_choice,
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("first", type=Path, help="folder of the first model")
    parser.add_argument("second", type=Path, help="folder of the second model")
    parser.add_argument(
        "values", nargs="+", type=float, help="two or more shares of the second model, in [0, 1]"
    )
    parser.add_argument(
        "--along",
        choices=("tensors", "layers"),
        default="tensors",
        help="what the values are spread over: the tensors in state-dict order, as the script of "
        "2023 did, or the layers, each with one ratio (default: %(default)s)",
    )
    parser.add_argument(
        "--blend",
        choices=("all", "layers", "no_layers"),
        default="all",
        help="blend all tensors, only those of layers, or only the others; what is not blended is "
        "the first model's (default: %(default)s)",
    )
    parser.add_argument(
        "--containing",
        metavar="TEXT",
        default="",
        help="blend only tensors whose name contains this (default: any)",
    )
    parser.add_argument(
        "--vocabulary",
        choices=("truncate", "map", "rows"),
        help="the second model's rows of tokens: leave out those beyond the first's, put each "
        "where the first has its token, or take them by number whatever tokens they are of; "
        "without a rule, other rows are an error",
    )
    add_vocabulary_options(parser)
    add_output_options(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.merge.donors import mapping_folder, under_rule
    from remerge.merge.vocabularies import with_chat_template, with_one_vocabulary
    from remerge.methods.gradient import Gradient, Vocabulary, in_order_for, plan_gradient
    from remerge.shards.artefact import build, companions_of
    from remerge.shards.inputs import distinct_labels
    from remerge.tensors.checkpoint import open_checkpoint
    from remerge.tensors.dtypes import from_torch_name

    settings = build_options(options)
    gradient = Gradient(tuple(options.values), options.along, options.blend, options.containing)
    folders = (options.first, options.second)
    with (
        plain_folders(options, settings) as plain,
        mapping_folder(settings["scratch"]) as mapped,
    ):
        paths = [plain.folder(folder) for folder in folders]
        first, second = map(open_checkpoint, paths, distinct_labels(folders))
        first = in_order_for(gradient, first)
        labels = dict(zip(map(str, folders), (first.label, second.label), strict=True))
        choice = tokenizer_choice(options, labels)
        companions, changes = companions_of(paths[0]), dict[str, Any]()
        ruled = under_rule(second, first, "one" if choice else options.vocabulary, mapped)
        second = ruled.model
        vocabulary = Vocabulary(options.vocabulary, ruled.notes, ruled.rows)
        if choice is not None:
            shared = with_one_vocabulary([first, second], choice, mapped)
            companions, changes = shared.companions, shared.config_changes
            first, second = shared.models
            vocabulary = Vocabulary("one", (*ruled.notes, *shared.notes), shared.digest)
        if options.chat_template:
            companions = with_chat_template(
                companions, options.chat_template, [first, second], mapped
            )
        plan = plan_gradient(
            first,
            second,
            gradient,
            dtype=from_torch_name(options.dtype),
            shard_bytes=parse_size(options.shard_size),
            vocabulary=vocabulary,
        )
        manifest = build(
            plan, options.out, companions=companions, config_changes=changes, **settings
        )
    print(f"{manifest['model_id']}  {options.out}")
