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

from remerge.commands.common import add_output_options, build_options, parse_size


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
        choices=("truncate",),
        help="leave out the second model's rows of tokens beyond the first's; without a rule, "
        "more rows are an error",
    )
    add_output_options(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.merge.donors import mapping_folder, named_like
    from remerge.methods.gradient import Gradient, in_order_for, plan_gradient
    from remerge.shards.artefact import build, companions_of
    from remerge.shards.inputs import distinct_labels
    from remerge.tensors.checkpoint import open_checkpoint
    from remerge.tensors.dtypes import from_torch_name
    from remerge.vocabulary.mapping import require_same_tokens

    settings = build_options(options)
    gradient = Gradient(tuple(options.values), options.along, options.blend, options.containing)
    folders = (options.first, options.second)
    first, second = map(open_checkpoint, folders, distinct_labels(folders))
    first = in_order_for(gradient, first)
    require_same_tokens(second, first)
    with mapping_folder(settings["scratch"]) as mapped:
        second, notes = named_like(second, first, mapped)
        plan = plan_gradient(
            first,
            second,
            gradient,
            dtype=from_torch_name(options.dtype),
            shard_bytes=parse_size(options.shard_size),
            vocabulary=options.vocabulary,
            notes=notes,
        )
        manifest = build(plan, options.out, companions=companions_of(options.first), **settings)
    print(f"{manifest['model_id']}  {options.out}")
