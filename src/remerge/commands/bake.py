"""Bake a LoRA adapter into a model: W' = W + scale·B·A, exactly defined and streamed.

  remerge bake models/hermes adapters/kimiko --out baked/hermes

The result is a model folder like any other: a donor for `remerge ties`, for example. The same
inputs give the same bytes on every machine; what is printed is their model id.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from remerge.commands.common import add_output_options, build_options, parse_size, plain_folders


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("model", type=Path, help="folder of the model (safetensors)")
    parser.add_argument("adapter", type=Path, help="folder of the adapter, as peft saves it")
    add_output_options(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.adapters.peft_files import read_adapter
    from remerge.baking.bake import plan_bake
    from remerge.shards.artefact import build, companions_of
    from remerge.shards.inputs import distinct_labels
    from remerge.shards.order import in_state_dict_order
    from remerge.tensors.checkpoint import open_checkpoint
    from remerge.tensors.dtypes import from_torch_name

    settings = build_options(options)
    label, adapter_label = distinct_labels([options.model, options.adapter])
    with plain_folders(options, settings) as plain:
        folder = plain.folder(options.model)
        model, _ = in_state_dict_order(open_checkpoint(folder, label))
        plan = plan_bake(
            model,
            read_adapter(options.adapter, adapter_label),
            dtype=from_torch_name(options.dtype),
            shard_bytes=parse_size(options.shard_size),
        )
        manifest = build(plan, options.out, companions=companions_of(folder), **settings)
    print(f"{manifest['model_id']}  {options.out}")
