"""Signing what was built, and refusing what was not: offline, with a key of one's own.

>>> sign("merged/final", "final.sig", private_key="key.pem")
>>> verify_signature("merged/final", "final.sig", public_key="key.pub")

The work is `model_signing`'s (the OpenSSF model signing format, a Sigstore bundle): a SHA-256 of
every file of the folder, signed by an elliptic-curve key. An ECDSA signature holds a random number,
so two signatures of one model differ and a signature is never an output of the pipeline.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from remerge.atomic import TEMPORARY_SUFFIX, publish
from remerge.errors import RemergeError

#: Holds the password of an encrypted private key; a command line would show it to everybody.
PASSWORD_VARIABLE = "REMERGE_KEY_PASSWORD"  # noqa: S105


class SignatureError(RemergeError):
    """A signature, key or certificate cannot be used, or does not fit the model."""


def sign(
    model: Path | str,
    signature: Path | str,
    *,
    private_key: Path | str,
    certificate: Path | str | None = None,
    chain: Sequence[Path | str] = (),
) -> None:
    """Sign every file of the folder (or the one file) `model` into the file `signature`.

    private_key  PEM, elliptic curve; its password, if it has one, in `REMERGE_KEY_PASSWORD` (the
                 library takes no password where there is a certificate)
    certificate  PEM, of the key: verifiers then need only trust the authority that issued it
    chain        PEM files of the authorities between, none for a certificate issued by the root

    SignatureError when key and certificate do not fit, or cannot be read.
    """
    from model_signing.signing import Config

    model, signature = Path(model), Path(signature)
    _require(model, private_key, *([certificate] if certificate else []), *chain)
    if signature.resolve().is_relative_to(model.resolve()):
        raise SignatureError(f"{signature}: lies in what it signs; put it beside {model}")
    temporary = signature.with_name(f".{signature.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    signature.parent.mkdir(parents=True, exist_ok=True)
    config = Config().set_hashing_config(_hashing())
    with _one_line(f"cannot sign {model}"):
        if certificate:
            config.use_certificate_signer(
                private_key=Path(private_key),
                signing_certificate=Path(certificate),
                # The library refuses an empty chain; the certificate itself adds nothing to it.
                certificate_chain=[Path(path) for path in chain or [certificate]],
            )
        else:
            # Annotated as text, but what it is handed to takes bytes alone.
            password: Any = os.environb.get(PASSWORD_VARIABLE.encode())
            config.use_elliptic_key_signer(private_key=Path(private_key), password=password)
        try:
            config.sign(model, temporary)
            publish(temporary, signature)
        finally:
            temporary.unlink(missing_ok=True)


def verify_signature(
    model: Path | str,
    signature: Path | str,
    *,
    public_key: Path | str | None = None,
    trusted: Sequence[Path | str] = (),
) -> None:
    """Return if `signature` is that of `model`'s files by whom we trust; SignatureError otherwise.

    Give either the signer's `public_key` (PEM) or `trusted`, certificates of authorities (PEM); the
    system's own authorities are never asked.
    """
    from model_signing.verifying import Config

    if (public_key is None) == (not trusted):
        raise SignatureError("name either the signer's public key or the authorities to trust")
    model, signature = Path(model), Path(signature)
    _require(model, signature, *([public_key] if public_key else []), *trusted)
    config = Config().set_hashing_config(_hashing())
    with _one_line(f"{model} is not what was signed, or not by whom you trust"):
        if public_key:
            config.use_elliptic_key_verifier(public_key=Path(public_key))
        else:
            config.use_certificate_verifier(certificate_chain=[Path(path) for path in trusted])
        config.verify(model, signature)


def _hashing() -> Any:
    """Every file, followed if it is a link into the DVC cache."""
    from model_signing.hashing import Config

    config = Config().use_file_serialization(hashing_algorithm="sha256", allow_symlinks=True)
    return config.set_allow_symlinks(True)


def _require(*paths: Path | str) -> None:
    for path in paths:
        if not Path(path).exists():
            raise SignatureError(f"{path}: does not exist")


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Whatever `model_signing` and the libraries under it raise, as one line."""
    logging.getLogger("model_signing").setLevel(logging.ERROR)
    try:
        yield
    except SignatureError:
        raise
    except Exception as error:  # their types are many: ValueError, TypeError, OpenSSL's, pydantic's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SignatureError(f"{what}: {reason}") from None
