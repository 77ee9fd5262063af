"""Signatures of ours and of the OpenSSF's `model_signing`, each verified by the other.

The scenarios are those that the format's conformance suite names; its files are on no package
index, so each is made here.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec

from remerge.errors import SignatureError
from remerge.proof.signing import sign, verify_signature

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

#: Files of a model by the name of the scenario.
MODELS: dict[str, dict[str, bytes]] = {
    "simple": {"signme-1": b"one", "signme-2": b"two"},
    "binary": {"weights": bytes(range(256)) * 64},
    "empty file": {"empty": b"", "other": b"x"},
    "nested": {"a/b/c/d": b"deep", "a/e": b"less"},
    "dotfile": {".hidden": b"h", "shown": b"s"},
    "hidden folder": {".config/settings": b"{}", "w": b"w"},
    "unicode": {"größe-模型.bin": b"u", "e\u0301": b"decomposed"},
    "special characters": {"a b 'c' $(d) [e];f": b"s", "per%20cent": b"p"},
    "many": {f"shard-{number:03}": bytes([number]) for number in range(64)},
}
CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


@pytest.fixture(scope="module", params=CURVES)
def keys(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key, its public half and another one of the same curve."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("key", "other"):
        private = ec.generate_private_key(CURVES[request.param])
        (folder / f"{name}.pem").write_bytes(
            private.private_bytes(
                pem.Encoding.PEM, pem.PrivateFormat.TraditionalOpenSSL, pem.NoEncryption()
            )
        )
        (folder / f"{name}.pub").write_bytes(
            private.public_key().public_bytes(
                pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo
            )
        )
    return folder


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return made(tmp_path / "model", MODELS[request.param])


def made(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def signed_by_others(model: Path, signature: Path, key: Path) -> None:
    from model_signing.signing import Config

    Config().use_elliptic_key_signer(private_key=key).sign(model, signature)


def verified_by_others(model: Path, signature: Path, public: Path) -> None:
    from model_signing.verifying import Config

    Config().use_elliptic_key_verifier(public_key=public).verify(model, signature)


def test_others_verify_our_signature_by_default(model: Path, keys: Path, tmp_path: Path) -> None:
    signature = tmp_path / "ours.sig"
    sign(model, signature, private_key=keys / "key.pem")
    verified_by_others(model, signature, keys / "key.pub")
    verify_signature(model, signature, public_key=keys / "key.pub")


def test_we_verify_the_signature_of_others(model: Path, keys: Path, tmp_path: Path) -> None:
    signature = tmp_path / "theirs.sig"
    signed_by_others(model, signature, keys / "key.pem")
    verify_signature(model, signature, public_key=keys / "key.pub")


def test_a_single_file_goes_both_ways(keys: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"weights")
    sign(model, tmp_path / "ours.sig", private_key=keys / "key.pem")
    verified_by_others(model, tmp_path / "ours.sig", keys / "key.pub")
    signed_by_others(model, tmp_path / "theirs.sig", keys / "key.pem")
    verify_signature(model, tmp_path / "theirs.sig", public_key=keys / "key.pub")
    model.write_bytes(b"Weights")
    with pytest.raises(SignatureError):
        verify_signature(model, tmp_path / "theirs.sig", public_key=keys / "key.pub")


def _changed_bundle(change: Callable[[dict], object]) -> Callable[[Path, Path], None]:
    def damage(_: Path, signature: Path) -> None:
        bundle = json.loads(signature.read_text())
        change(bundle)
        signature.write_text(json.dumps(bundle))

    return damage


def _without_files(bundle: dict) -> None:
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"]["resources"] = []
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "tampered content": lambda model, _: (model / "signme-1").write_bytes(b"eno"),
    "missing file": lambda model, _: (model / "signme-2").unlink(),
    "extra file": lambda model, _: (model / "signme-3").write_bytes(b""),
    "renamed file": lambda model, _: (model / "signme-1").rename(model / "signme-9"),
    "exchanged files": lambda model, _: made(model, {"signme-1": b"two", "signme-2": b"one"}),
    "link": lambda model, _: (
        shutil.move(model / "signme-1", model.parent / "out"),
        (model / "signme-1").symlink_to(model.parent / "out"),
    ),
    "empty bundle": lambda _, signature: signature.write_bytes(b""),
    "truncated bundle": lambda _, signature: signature.write_bytes(signature.read_bytes()[:-40]),
    "corrupted bundle": lambda _, signature: signature.write_text(
        signature.read_text().replace('"payload"', '"payl0ad"')
    ),
    "no bundle": lambda _, signature: signature.unlink(),
    "wrong media type": _changed_bundle(lambda b: b.update(mediaType="application/x")),
    "no signature": _changed_bundle(lambda b: b["dsseEnvelope"].update(signatures=[])),
    "empty signature": _changed_bundle(lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="")),
    "other payload type": _changed_bundle(lambda b: b["dsseEnvelope"].update(payloadType="x/y")),
    "no files": _changed_bundle(_without_files),
    "no key material": _changed_bundle(lambda b: b.pop("verificationMaterial")),
}


@pytest.mark.parametrize("signer", [sign, None], ids=["ours", "theirs"])
@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_not_the_signed_model_is_refused(
    name: str, signer: object, keys: Path, tmp_path: Path
) -> None:
    model, signature = made(tmp_path / "model", MODELS["simple"]), tmp_path / "model.sig"
    if signer:
        sign(model, signature, private_key=keys / "key.pem")
    else:
        signed_by_others(model, signature, keys / "key.pem")
    DAMAGE[name](model, signature)
    with pytest.raises(SignatureError) as caught:
        verify_signature(model, signature, public_key=keys / "key.pub")
    assert str(caught.value).isprintable()


def test_another_key_or_a_key_for_an_authority_is_refused(keys: Path, tmp_path: Path) -> None:
    model, signature = made(tmp_path / "model", MODELS["simple"]), tmp_path / "model.sig"
    signed_by_others(model, signature, keys / "key.pem")
    with pytest.raises(SignatureError):
        verify_signature(model, signature, public_key=keys / "other.pub")
    with pytest.raises(SignatureError):
        verify_signature(model, signature, trusted=[keys / "key.pub"])
