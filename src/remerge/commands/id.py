"""Print the model id: one digest of the weights, whatever files they lie in.

  remerge id merged/final quantized/gguf_q4_k_m downloads/model.gguf
  remerge id merged/final --expect 9f86d081…

The same tensors in other shards, or copied elsewhere, have the same id, a pickle checkpoint that of
its weights as safetensors; one flipped bit gives another. A GGUF, GGML or GPTQ has an id over its
own tensors, so it differs from that of the folder it was made of. File names, config and tokenizer
do not count (`remerge check` looks at those); --expect also names what of a folder is code.
"""

from __future__ import annotations

import argparse
import json
import sys

from remerge.commands.common import model_id_option


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder or file of weights")
    parser.add_argument(
        "--expect", type=model_id_option, metavar="ID", help="fail unless every model has this id"
    )
    parser.add_argument("--tensors", action="store_true", help="list every tensor's SHA-256 too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--threads", type=int, help="threads to use (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Do it; 1 if --expect was given and a model has another id."""
    from remerge.errors import printable
    from remerge.proof.code_in_model import code_note
    from remerge.proof.digests import identify

    other = False
    found = {}
    for model in options.models:
        identity = identify(model, options.threads)
        entry: dict[str, object] = {"model_id": identity.model_id}
        if options.tensors:
            entry["tensors"] = identity.tensors
        found[model] = entry
        if not options.json:
            print(f"{identity.model_id}  {printable(model, 4096)}")
            if options.tensors:
                for name, digest in sorted(identity.tensors.items()):
                    print(f"  {digest}  {printable(name)}")
        if options.expect is not None and identity.model_id != options.expect:
            other = True
            print(f"{printable(model)}: not the model {options.expect}", file=sys.stderr)
        note = code_note(model) if options.expect is not None else ""
        if note:
            print(f"{printable(model)}: {note}", file=sys.stderr)
    if options.json:
        print(json.dumps(found, indent=2, sort_keys=True))
    return int(other)
