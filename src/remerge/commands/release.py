"""Put the built model into a folder to upload, with its card, licences and provenance beside it.

  remerge release upload
  remerge release upload --formats gguf_q4_k_m gguf_q8_0
  remerge release upload --project https://example.org/me/project --commit $(git rev-parse HEAD)

Run in the project after `dvc repro`. Files are hard links to the pipeline's outputs and must not be
edited in place; formats become folders, their files named after the model (Stheno.Q4_K_M.gguf). The
card lists the formats in the folder and, with --project and --commit, how to build it again.
SHA256SUMS is for `sha256sum --check` in the folder.
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
    parser.add_argument(
        "--project", default="", metavar="URL", help="address of the project, for the card"
    )
    parser.add_argument(
        "--commit", default="", metavar="SHA", help="commit that built it, for the card"
    )


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.report.release import release
    from remerge.report.released_card import Origin

    origin = Origin(options.project, options.commit)
    for name in release(options.out, options.formats, origin=origin):
        print(options.out / name)
