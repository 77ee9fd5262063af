"""Check that a model is, file by file, what somebody signed.

  remerge verify-signature merged/final --key key.pub
  remerge verify-signature merged/final --trust authority.pem --signature final.sig

Exit status 1, with a line that says which file differs, for one changed bit, a file too many or too
few, a link, another key, or a certificate of an authority that you did not name. `.gitattributes`
and `.cache/huggingface`, which hubs and their clients add, are passed over with a note.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("model", type=Path, help="folder or file")
    parser.add_argument("--signature", type=Path, help="default: MODEL.sig")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--key", type=Path, help="the signer's public key, PEM")
    who.add_argument(
        "--trust", type=Path, action="append", default=[], help="an authority, PEM; repeatable"
    )


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.errors import printable
    from remerge.proof.signing import verify_signature

    signature = options.signature or options.model.with_name(f"{options.model.name}.sig")
    note = verify_signature(options.model, signature, public_key=options.key, trusted=options.trust)
    print(f"{printable(options.model)} is what was signed")
    if note:
        print(note)
