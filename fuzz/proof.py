"""Targets: what `check`, `verify-signature` and `verify --against` read before they trust it."""

from __future__ import annotations

import base64
import json
import struct
from functools import cache
from pathlib import Path

import yaml

from fuzz.running import Target, checked, scratch
from remerge.proof import lock
from remerge.proof.builds import require_outputs
from remerge.proof.check import check_folder
from remerge.proof.code_in_model import code_note
from remerge.proof.signing import signed_files, verify_signature
from remerge.tensors.json_files import parse_json_object

_HEADER = b'{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}'
_MANIFEST = {
    "files": {
        "config.json": {"size": 2, "sha256": "0" * 64},
        "model.safetensors": {"size": 66, "tensors": ["a"], "header_sha256": "0" * 64},
    },
    "tensors": {"a": {"dtype": "F16", "shape": [2], "sha256": "0" * 64}},
    "model_id": "0" * 64,
}


@cache
def _model(name: str) -> Path:
    """A folder with one tensor and a config."""
    folder = scratch() / name
    folder.mkdir()
    data = struct.pack("<Q", len(_HEADER)) + _HEADER + bytes(4)
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_text("{}")
    return folder


def manifest(data: bytes) -> None:
    """manifest.json of a folder with a tensor; for an odd first byte SHA256SUMS beside it"""
    folder = _model("manifest")
    odd = bool(data[:1]) and data[0] % 2 == 1
    text = json.dumps(_MANIFEST).encode() if odd else data[1:]
    (folder / "manifest.json").write_bytes(text)
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    if odd:
        (folder / "SHA256SUMS").write_bytes(data[1:])
    check = checked(lambda: check_folder(folder, 1))
    if check:
        assert all(str(problem).isprintable() for problem in check.problems)


def code(data: bytes) -> None:
    """config.json, as the entries that ask for code"""
    folder = _model("code")
    (folder / "config.json").write_bytes(data)
    assert code_note(folder).isprintable()


@cache
def _key() -> Path:
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec

    path = scratch() / "key.pub"
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    path.write_bytes(public.public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo))
    return path


def signature(data: bytes) -> None:
    """A signature bundle; for an odd first byte the statement in a sound envelope"""
    if data[:1] and data[0] % 2:
        bundle = {"dsseEnvelope": {"payload": base64.b64encode(data[1:]).decode()}}
        checked(lambda: signed_files(bundle, "fuzzed"))
        return
    found = checked(lambda: parse_json_object(data[1:], "fuzzed"))
    if found is None:
        return
    checked(lambda: signed_files(found, "fuzzed"))
    path = scratch() / "fuzzed.sig"
    path.write_bytes(data[1:])
    model = _model("signed")
    assert checked(lambda: verify_signature(model, path, public_key=_key())) is None


_LISTING = "d41d8cd98f00b204e9800998ecf8427e"
_LOCK = {"stages": {"ties": {"cmd": "a", "outs": [{"path": "locked", "md5": f"{_LISTING}.dir"}]}}}


def dvc_lock(data: bytes) -> None:
    """dvc.lock of a project; for an odd first byte the list of files in its cache"""
    root = scratch()
    folder = _model("locked")
    listing = root / ".dvc" / "cache" / lock.object_name(f"{_LISTING}.dir")
    listing.parent.mkdir(parents=True, exist_ok=True)
    odd = bool(data[:1]) and data[0] % 2 == 1
    listing.write_bytes(data[1:] if odd else b"[]")
    (root / "dvc.lock").write_bytes(yaml.safe_dump(_LOCK).encode() if odd else data[1:])
    lock._outputs.cache_clear()
    checked(lambda: lock.recorded_files(folder))
    stages = checked(lambda: lock.read_lock(root))
    if stages:
        checked(lambda: require_outputs(root, stages))


TARGETS: dict[str, Target] = {
    "manifest": manifest,
    "code": code,
    "signature": signature,
    "dvc_lock": dvc_lock,
}

_STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "predicateType": "https://model_signing/signature/v1.0",
    "subject": [{"name": "m", "digest": {"sha256": "0" * 64}}],
    "predicate": {"resources": [{"name": "a", "digest": "0" * 64, "algorithm": "sha256"}]},
}

#: Inputs to begin with.
SEEDS: dict[str, list[bytes]] = {
    "manifest": [
        b"\x00" + json.dumps(_MANIFEST).encode(),
        b"\x01" + b"0" * 64 + b"  config.json\n" + b"1" * 64 + b"  model.safetensors\n",
    ],
    "code": [b'{"auto_map":{"AutoConfig":"a.B"}}', b'{"a":[{"_attn_implementation":"a/b"}]}'],
    "signature": [
        b"\x01" + json.dumps(_STATEMENT).encode(),
        b"\x00"
        + json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "verificationMaterial": {"publicKey": {"hint": "0"}, "tlogEntries": []},
                "dsseEnvelope": {
                    "payload": base64.b64encode(json.dumps(_STATEMENT).encode()).decode(),
                    "payloadType": "application/vnd.in-toto+json",
                    "signatures": [{"sig": "MEUCIQ==", "keyid": ""}],
                },
            }
        ).encode(),
    ],
    "dvc_lock": [
        b"\x00" + yaml.safe_dump(_LOCK).encode(),
        b"\x00stages: {a: {outs: [{path: locked, files: [{relpath: a, md5: "
        + b"0" * 32
        + b"}]}], deps: [{path: x}]}}\n",
        b"\x01" + json.dumps([{"md5": "0" * 32, "relpath": "config.json"}]).encode(),
    ],
}
