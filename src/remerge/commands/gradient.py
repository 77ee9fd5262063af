"""Blend two models by a ratio that changes along them (BlockMerge_Gradient).

  remerge gradient merged/p1 merged/p2 0 0.35 0.65 1 --out merged/final

The values are shares of the second model, linear between, spread over the state dict.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from remerge.commands.common import add_output_options, build_options, parse_size


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("first", type=Path, help="folder of the first model")
    parser.add_argument("second", type=Path, help="folder of the second model")
    parser.add_argument("values", nargs="+", type=float, help="shares of the second, in [0, 1]")
    parser.add_argument("--along", choices=("tensors", "layers"), default="tensors")
    parser.add_argument("--blend", choices=("all", "layers", "no_layers"), default="all")
    parser.add_argument("--containing", default="", help="only tensors whose name contains this")
    add_output_options(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.merge.gradient import Gradient, plan_gradient
    from remerge.shards.artefact import build, companions_of
    from remerge.tensors.checkpoint import open_checkpoint
    from remerge.tensors.dtypes import from_torch_name

    plan = plan_gradient(
        open_checkpoint(options.first),
        open_checkpoint(options.second),
        Gradient(tuple(options.values), options.along, options.blend, options.containing),
        dtype=from_torch_name(options.dtype),
        shard_bytes=parse_size(options.shard_size),
    )
    manifest = build(
        plan, options.out, companions=companions_of(options.first), **build_options(options)
    )
    print(f"{manifest['model_id']}  {options.out}")
