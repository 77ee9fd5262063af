"""Re-derive a GGUF or GGML file from the model that it is said to be made of.

  remerge verify-format model-Q4_K_M.gguf --from merged/final
  remerge verify-format model-Q4_K_M.gguf --from model-F16.gguf

Every tensor is quantized anew, to the type that it has in the file, and compared byte by byte. So
are the metadata: all of them where MODEL is a GGUF file, else those that decide how the model
computes and splits a text. It works for our files and for those of a llama.cpp that was compiled
without fused multiply-add; one with it chooses otherwise in a few blocks, which is said.
Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a GGUF or GGML (ggjt) file")
    parser.add_argument(
        "--from",
        dest="model",
        type=Path,
        required=True,
        metavar="MODEL",
        help="folder of safetensors, or a GGUF file of F16, BF16 or F32 weights",
    )
    parser.add_argument("--threads", type=int, help="threads to use (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Do it; 1 if anything differs."""
    from remerge.proof.formats import verify_format

    found = verify_format(options.file, options.model, options.threads)
    for line in found.differences:
        print(line)
    for line in found.notes:
        print(f"note: {line}")
    total = f"{found.tensors} tensors"
    if found.differences:
        print(f"DIFFERS: {len(found.differences)} differences in {total}")
        return 1
    print(f"equal: {total} are what {options.model} gives")
    return 0
