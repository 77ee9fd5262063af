"""Write a quantized model as a plain one: FP8, compressed-tensors, bitsandbytes and MXFP4.

  remerge dequantize models/deepseek --out models/deepseek-bf16

Each weight becomes the number that it stands for, as the library of its format computes it, in the
type that config.json says; everything else is copied. The result is a model folder like any other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from remerge.commands.common import add_work_options, build_options, parse_size


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--out", type=Path, required=True, help="folder to make; must not exist")
    parser.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        help="type of what was quantized (default: the one that config.json says)",
    )
    add_work_options(parser, shard_size="5GB", out="--out")


def run(options: argparse.Namespace) -> None:
    """Run the command; return its exit status."""
    from remerge.shards.artefact import require_new
    from remerge.sources.plain_folders import dequantize_folder

    require_new(options.out)
    manifest = dequantize_folder(
        options.model,
        options.out,
        dtype=options.dtype,
        shard_bytes=parse_size(options.shard_size),
        **build_options(options),
    )
    print(f"{manifest['model_id']}  {options.out}")
