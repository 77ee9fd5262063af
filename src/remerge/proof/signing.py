"""Signing what was built, and refusing what was not: offline, with a key of one's own.

>>> sign("merged/final", "final.sig", private_key="key.pem")
>>> verify_signature("merged/final", "final.sig", public_key="key.pub")

The work is `model_signing`'s (the OpenSSF model signing format, a Sigstore bundle): a SHA-256 of
every file of the folder, signed by an elliptic-curve key. An ECDSA signature holds a random number,
so two signatures of one model differ and a signature is never an output of the pipeline.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from remerge.errors import CheckpointError, SignatureError, printable
from remerge.files import regular_file_size, write_bytes
from remerge.proof.check import MANIFEST, check_folder
from remerge.proof.contents import IGNORED, Contents, ignored_note, is_ignored, read_contents
from remerge.proof.digests import sha256_of_ranges, whole
from remerge.tensors.json_files import parse_json_object, read_json

#: Holds the password of an encrypted private key; a command line would show it to everybody.
PASSWORD_VARIABLE = "REMERGE_KEY_PASSWORD"  # noqa: S105


def sign(
    model: Path | str,
    signature: Path | str,
    *,
    private_key: Path | str,
    certificate: Path | str | None = None,
    chain: Sequence[Path | str] = (),
) -> None:
    """Sign every file of the folder (or the one file) `model` into the file `signature`.

    private_key  PEM, elliptic curve; its password, if it has one, in `REMERGE_KEY_PASSWORD`
    certificate  PEM, of the key: verifiers then need only trust the authority that issued it
    chain        PEM files of the authorities between, none for a certificate issued by the root

    SignatureError when key and certificate do not fit, or cannot be read.
    """
    from model_signing.signing import Config

    model, signature = Path(model), Path(signature)
    _require(model, private_key, *([certificate] if certificate else []), *chain)
    if signature.resolve().is_relative_to(model.resolve()):
        raise SignatureError(f"{signature}: lies in what it signs; put it beside {model}")
    contents = _plain(model)
    for name in contents.files if contents else ():
        if not is_ignored(name) and any(name.startswith(f"{place}/") for place in IGNORED):
            raise SignatureError(f"{model / name}: cannot be signed there; move it away")
    if contents and MANIFEST in contents.files:
        _require_sound(model)
    signature.parent.mkdir(parents=True, exist_ok=True)
    config = Config().set_hashing_config(_hashing())
    with _one_line(f"cannot sign {model}"), _unlocked(Path(private_key)) as key:
        if certificate:
            config.use_certificate_signer(
                private_key=key,
                signing_certificate=Path(certificate),
                # The library refuses an empty chain; the certificate itself adds nothing to it.
                certificate_chain=[Path(path) for path in chain or [certificate]],
            )
        else:
            config.use_elliptic_key_signer(private_key=key)
        with TemporaryDirectory() as folder:
            written = Path(folder) / "signature"
            config.sign(model, written)
            write_bytes(signature, written.read_bytes())


@contextmanager
def _unlocked(private_key: Path) -> Iterator[Path]:
    """A file with the key in it, without its password if it has one.

    The library takes no password where there is a certificate. What is unlocked lies in memory,
    under a name of this process alone, and goes with it.
    """
    from cryptography.hazmat.primitives import serialization as pem

    regular_file_size(private_key)  # a device never ends
    data, password = private_key.read_bytes(), os.environb.get(PASSWORD_VARIABLE.encode())
    if b"ENCRYPTED" not in data:
        yield private_key
        return
    if not password:
        raise SignatureError(f"{private_key} has a password: give it in {PASSWORD_VARIABLE}")
    key = pem.load_pem_private_key(data, password)
    plain = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    with os.fdopen(os.memfd_create("key"), "wb", buffering=0) as file:
        file.write(plain)
        yield Path(f"/proc/self/fd/{file.fileno()}")


def verify_signature(
    model: Path | str,
    signature: Path | str,
    *,
    public_key: Path | str | None = None,
    trusted: Sequence[Path | str] = (),
) -> str:
    """Return if `signature` is that of `model`'s files by whom we trust; SignatureError otherwise.

    A folder must hold the signed files, as regular files, and nothing else but what hubs and their
    clients add (`proof.contents`); what was passed over is returned as a line, mostly an empty one.

    Give either the signer's `public_key` (PEM) or `trusted`, certificates of authorities (PEM); the
    system's own authorities are never asked.
    """
    from model_signing.verifying import Config

    if (public_key is None) == (not trusted):
        raise SignatureError("name either the signer's public key or the authorities to trust")
    model, signature = Path(model), Path(signature)
    _require(model, signature, *([public_key] if public_key else []), *trusted)
    contents = _plain(model)
    _require_bundle(signature)
    config = Config().set_hashing_config(_hashing())
    with _one_line(f"{model} is not what was signed, or not by whom you trust"):
        if public_key:
            config.use_elliptic_key_verifier(public_key=Path(public_key))
        else:
            config.use_certificate_verifier(certificate_chain=[Path(path) for path in trusted])
        try:
            config.verify(model, signature)
        except ValueError as error:
            # It verifies the signature itself before it compares a file, so the names can be read.
            if not str(error).startswith("Signature mismatch"):
                raise
            if model.is_file():
                raise SignatureError(f"{model} is not what was signed: it has changed") from None
            changed = _changed(model, signature, contents)
        else:
            changed = set()
        # Also where all agrees: a signer may have told the library to pass over files, git's say.
        covered = set(_signed(signature)) if model.is_dir() else set()
    present = set(contents.files) if contents else set()
    passed_over = contents.ignored(covered) if contents else []
    differences = {
        "changed": changed,
        "not covered by the signature": contents.unlisted(covered) if contents else (),
        "missing": covered - present,
    }
    if any(differences.values()):
        said = "; ".join(
            f"{what}: {', '.join(printable(name) for name in sorted(names))}"
            for what, names in differences.items()
            if names
        )
        raise SignatureError(f"{model} is not what was signed: {said}")
    if contents:
        try:
            contents.require_unchanged()
        except CheckpointError as error:
            raise SignatureError(str(error)) from None
    return ignored_note(passed_over)


def _require_bundle(signature: Path) -> None:
    """SignatureError for what is no bundle: the library reads a file of any length whole."""
    try:
        read_json(signature)
    except CheckpointError as error:
        raise SignatureError(str(error)) from None


def _require_sound(model: Path) -> None:
    """SignatureError for a folder that is not what its own manifest says."""
    try:
        problems = check_folder(model).problems
    except CheckpointError as error:
        raise SignatureError(str(error)) from None
    if problems:
        raise SignatureError(f"{model}: {problems[0]}; nothing is signed")


def _plain(model: Path) -> Contents | None:
    """What lies in the folder; None for a file, SignatureError if it is more than regular files."""
    if not model.is_dir():
        return None
    try:
        contents = read_contents(model)
        contents.require_plain()
    except CheckpointError as error:
        raise SignatureError(str(error)) from None
    return contents


def _changed(model: Path, signature: Path, contents: Contents | None) -> set[str]:
    signed = _signed(signature)
    both = sorted(contents.files.keys() & signed.keys()) if contents else []
    digests = sha256_of_ranges([whole(model / name) for name in both])
    return {name for name, digest in zip(both, digests, strict=True) if digest != signed[name]}


def _signed(signature: Path) -> dict[str, str]:
    """SHA-256 of the files that a signature speaks of, which must have been verified."""
    return signed_files(read_json(signature), str(signature))


def signed_files(bundle: Mapping[str, Any], where: str) -> dict[str, str]:
    """Read which files a signature speaks of; whether it is genuine is for `model_signing` to say.

    Args:
        bundle: The Sigstore bundle.
        where: Names it in an error.

    Returns:
        SHA-256 by name.

    Raises:
        SignatureError: The bundle holds no statement of the OpenSSF model signing format.
    """
    envelope = bundle.get("dsseEnvelope")
    payload = envelope.get("payload") if isinstance(envelope, dict) else None
    try:
        statement = parse_json_object(base64.b64decode(str(payload), validate=True), where)
    except (binascii.Error, CheckpointError, ValueError):
        raise SignatureError(f"{where}: holds no statement; not a model signature") from None
    predicate = statement.get("predicate")
    resources = predicate.get("resources") if isinstance(predicate, dict) else None
    found: dict[str, str] = {}
    for entry in resources if isinstance(resources, list) else [None]:
        name, digest = (
            (entry.get("name"), entry.get("digest")) if isinstance(entry, dict) else (None, None)
        )
        if not isinstance(name, str) or not isinstance(digest, str) or name in found:
            raise SignatureError(f"{where}: its list of files is malformed; not a model signature")
        found[name] = digest
    return found


def _hashing() -> Any:
    """Every file but those that hubs and their clients add, which the signature then names."""
    from model_signing.hashing import Config

    config = Config().use_file_serialization(hashing_algorithm="sha256", allow_symlinks=False)
    # By default it passes over all of git's files, and code can lie in `.git`.
    return config.set_ignored_paths(paths=IGNORED, ignore_git_paths=False)


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
