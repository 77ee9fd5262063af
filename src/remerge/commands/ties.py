"""Merge donors into a base by TIES: trim each task vector, elect a sign, merge what agrees.

  remerge ties models/base models/chronos models/airoboros:0.5 models/hermes:0.5:2 --out merged

A donor is a folder, optionally followed by :density and :weight.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from remerge.commands.common import add_output_options, build_options, parse_size

if TYPE_CHECKING:
    from remerge.merge.ties import Donor
    from remerge.tensors.checkpoint import Checkpoint
    from remerge.tensors.fitting import Note


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("base", type=Path, help="folder of the base model (safetensors)")
    parser.add_argument("donors", nargs="+", metavar="DONOR[:DENSITY[:WEIGHT]]")
    parser.add_argument("--density", type=float, default=0.33, help="default: %(default)s")
    parser.add_argument("--lambda", dest="lam", type=float, default=1.0, help="default: 1")
    parser.add_argument("--elect", choices=("sum", "count"), default="sum")
    parser.add_argument(
        "--sum", action="store_true", help="do not divide by the weights of the donors that agree"
    )
    parser.add_argument(
        "--vocabulary",
        choices=("truncate", "map"),
        help="rows of the donors' vocabularies: leave out those beyond the base's, or put each "
        "where the base has its token; without a rule, other rows are an error",
    )
    add_output_options(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.merge.ties import TiesSettings, plan_ties
    from remerge.shards.artefact import build, companions_of
    from remerge.tensors.checkpoint import open_checkpoint
    from remerge.tensors.dtypes import from_torch_name

    base, settings = open_checkpoint(options.base), build_options(options)
    mapped = settings["scratch"] / "vocabulary"
    plan = plan_ties(
        base,
        [_donor(text, options, base, mapped) for text in options.donors],
        TiesSettings(lam=options.lam, normalize=not options.sum, elect=options.elect),
        dtype=from_torch_name(options.dtype),
        shard_bytes=parse_size(options.shard_size),
    )
    manifest = build(plan, options.out, companions=companions_of(options.base), **settings)
    shutil.rmtree(mapped, ignore_errors=True)
    print(f"{manifest['model_id']}  {options.out}")


def _donor(text: str, options: argparse.Namespace, base: Checkpoint, mapped: Path) -> Donor:
    from remerge.errors import RecipeError
    from remerge.merge.ties import Donor
    from remerge.merge.vocabulary import map_vocabulary
    from remerge.tensors.checkpoint import open_checkpoint

    folder, *numbers = text.split(":")
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        raise RecipeError(f"donor {text!r} is not FOLDER[:DENSITY[:WEIGHT]]") from None
    density, weight = (values + [options.density, 1.0][len(values) :])[:2]
    model = open_checkpoint(folder)
    notes: list[Note] = []
    if options.vocabulary == "map":
        model, notes = map_vocabulary(model, base, mapped)
    return Donor(model, density, weight, options.vocabulary, tuple(notes))
