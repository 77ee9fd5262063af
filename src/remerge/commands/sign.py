"""Sign a finished model, offline, with a key of your own.

  remerge sign merged/final --key key.pem
  remerge sign merged/final --key key.pem --certificate signer.pem --out final.sig

Signs every file of the folder, which is checked first if it has a manifest. `.gitattributes` and
`.cache/huggingface`, which hubs and their clients write, are not signed. `remerge verify-signature`
checks it, as does `model_signing`. The password of an encrypted key is read from
REMERGE_KEY_PASSWORD.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("model", type=Path, help="folder or file")
    parser.add_argument("--key", type=Path, required=True, help="private key, PEM, elliptic curve")
    parser.add_argument("--certificate", type=Path, help="certificate of the key, PEM")
    parser.add_argument(
        "--chain", type=Path, action="append", default=[], help="authority between, PEM; repeatable"
    )
    parser.add_argument("--out", type=Path, help="the signature (default: MODEL.sig)")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.proof.signing import sign

    out = options.out or options.model.with_name(f"{options.model.name}.sig")
    sign(
        options.model,
        out,
        private_key=options.key,
        certificate=options.certificate,
        chain=options.chain,
    )
    print(f"signed {options.model} into {out}")
