"""Put the built model into a folder to upload, with its card, licences and provenance beside it.

  remerge release upload
  remerge release upload --formats gguf_q4_k_m gguf_q8_0

Run in the project after `dvc repro`. Files are hard links to the pipeline's outputs and must not be
edited in place; formats become folders. SHA256SUMS is for `sha256sum --check` in the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; must not exist")
    parser.add_argument(
        "--formats", nargs="+", default=[], metavar="NAME", help="folders of quantized/ to add"
    )


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.report.release import release

    for name in release(options.out, options.formats):
        print(options.out / name)
