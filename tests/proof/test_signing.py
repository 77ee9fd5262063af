"""A signed model is accepted as it was signed, and refused after one flipped bit."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from remerge import cli
from remerge.errors import SignatureError
from remerge.proof.signing import sign, signed_files, verify_signature
from remerge.tensors.json_files import JSON_LIMIT
from tests.proof.models import flip_bit, llama, save

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and certificates, made with openssl as the documentation says."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("key", "other"):
        openssl(
            "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / f"{name}.pem"
        )
        openssl("ec", "-in", folder / f"{name}.pem", "-pubout", "-out", folder / f"{name}.pub")
    for name in ("authority", "stranger"):
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-subj", f"/CN={name}", "-days", "3650"),
            *("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"),
        )
    openssl(
        *("req", "-new", "-key", folder / "key.pem", "-subj", "/CN=signer"),
        *("-out", folder / "signer.csr"),
    )
    (folder / "usage.ext").write_text("keyUsage=critical,digitalSignature\n")
    openssl(
        *("x509", "-req", "-in", folder / "signer.csr", "-CA", folder / "authority.pem"),
        *("-CAkey", folder / "authority.key", "-CAcreateserial", "-days", "3650"),
        *("-extfile", folder / "usage.ext", "-out", folder / "signer.pem"),
    )
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "model", llama(1), 10000)


def with_key(model: Path, keys: Path) -> tuple[Path, dict[str, object]]:
    signature = model.with_name("by key.sig")
    sign(model, signature, private_key=keys / "key.pem")
    return signature, {"public_key": keys / "key.pub"}


def with_certificate(model: Path, keys: Path) -> tuple[Path, dict[str, object]]:
    signature = model.with_name("by certificate.sig")
    sign(model, signature, private_key=keys / "key.pem", certificate=keys / "signer.pem")
    return signature, {"trusted": [keys / "authority.pem"]}


both_ways = pytest.mark.parametrize("way", [with_key, with_certificate])


@both_ways
def test_a_signed_model_is_accepted_wherever_it_lies(
    way, model: Path, keys: Path, tmp_path: Path
) -> None:
    signature, who = way(model, keys)
    verify_signature(model, signature, **who)
    shutil.copytree(model, tmp_path / "downloads" / "renamed")
    verify_signature(tmp_path / "downloads" / "renamed", signature, **who)


@both_ways
@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00005.safetensors"])
def test_one_flipped_bit_is_refused_and_named(way, name: str, model: Path, keys: Path) -> None:
    signature, who = way(model, keys)
    flip_bit(model / name, (model / name).stat().st_size // 2)
    with pytest.raises(SignatureError, match=name):
        verify_signature(model, signature, **who)
    flip_bit(model / name, (model / name).stat().st_size // 2)
    verify_signature(model, signature, **who)


@both_ways
def test_a_file_too_many_or_too_few_is_refused(way, model: Path, keys: Path) -> None:
    signature, who = way(model, keys)
    (model / "extra.py").write_text("print()")
    with pytest.raises(SignatureError, match=r"extra\.py"):
        verify_signature(model, signature, **who)
    (model / "extra.py").unlink()
    (model / "config.json").unlink()
    with pytest.raises(SignatureError, match=r"config\.json"):
        verify_signature(model, signature, **who)


@both_ways
@pytest.mark.parametrize("name", [".git/x.py", ".github/x.py", "a/.gitignore"])
def test_files_of_git_are_files(way, name: str, model: Path, keys: Path) -> None:
    signature, who = way(model, keys)
    extra = model / name
    extra.parent.mkdir(exist_ok=True)
    extra.write_text("print()")
    with pytest.raises(SignatureError, match=f"not covered by the signature: {name}"):
        verify_signature(model, signature, **who)
    signature, who = way(model, keys)
    verify_signature(model, signature, **who)
    extra.write_text("other()")
    with pytest.raises(SignatureError, match=f"changed: {name}$"):
        verify_signature(model, signature, **who)


def test_what_another_signer_passed_over_is_not_covered(model: Path, keys: Path) -> None:
    signature = model.with_name("theirs.sig")
    program = Path(sys.executable).with_name("model_signing")
    arguments = ["sign", "key", model, "--private_key", keys / "key.pem"]
    command = [str(a) for a in (program, *arguments, "--signature", signature)]
    subprocess.run(command, check=True, capture_output=True)
    verify_signature(model, signature, public_key=keys / "key.pub")
    (model / ".gitignore").write_text("*")
    with pytest.raises(SignatureError, match=r"not covered by the signature: \.gitignore"):
        verify_signature(model, signature, public_key=keys / "key.pub")


@both_ways
@pytest.mark.parametrize("field", ["payload", "sig"])
def test_a_changed_signature_is_refused(way, field: str, model: Path, keys: Path) -> None:
    signature, who = way(model, keys)
    text = signature.read_text()
    envelope = json.loads(text)["dsseEnvelope"]
    value = envelope["payload"] if field == "payload" else envelope["signatures"][0]["sig"]
    for position in range(0, len(value) - 4, len(value) // 20):
        other = "A" if value[position] != "A" else "B"
        signature.write_text(text.replace(value, value[:position] + other + value[position + 1 :]))
        with pytest.raises(SignatureError) as caught:
            verify_signature(model, signature, **who)
        assert "\n" not in str(caught.value)


def test_another_key_and_another_authority_are_refused(model: Path, keys: Path) -> None:
    signature, _ = with_key(model, keys)
    with pytest.raises(SignatureError):
        verify_signature(model, signature, public_key=keys / "other.pub")
    signature, _ = with_certificate(model, keys)
    with pytest.raises(SignatureError):
        verify_signature(model, signature, trusted=[keys / "stranger.pem"])


def test_a_key_that_is_not_of_the_certificate_cannot_sign(model: Path, keys: Path) -> None:
    with pytest.raises(SignatureError, match="cannot sign"):
        sign(model, "x.sig", private_key=keys / "other.pem", certificate=keys / "signer.pem")
    assert not Path("x.sig").exists()


def test_two_signatures_of_one_model_differ_and_both_hold(model: Path, keys: Path) -> None:
    first, who = with_key(model, keys)
    text = first.read_bytes()
    second, _ = with_key(model, keys)
    assert second.read_bytes() != text
    verify_signature(model, second, **who)


def test_an_encrypted_key_takes_its_password_from_the_environment(
    model: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked.pem"
    openssl("pkcs8", "-topk8", "-in", keys / "key.pem", "-passout", "pass:quiet", "-out", locked)
    with pytest.raises(SignatureError, match="REMERGE_KEY_PASSWORD"):
        sign(model, tmp_path / "a.sig", private_key=locked)
    monkeypatch.setenv("REMERGE_KEY_PASSWORD", "wrong")
    with pytest.raises(SignatureError, match="cannot sign"):
        sign(model, tmp_path / "a.sig", private_key=locked)
    monkeypatch.setenv("REMERGE_KEY_PASSWORD", "quiet")
    sign(model, tmp_path / "a.sig", private_key=locked)
    verify_signature(model, tmp_path / "a.sig", public_key=keys / "key.pub")
    sign(model, tmp_path / "b.sig", private_key=locked, certificate=keys / "signer.pem")
    verify_signature(model, tmp_path / "b.sig", trusted=[keys / "authority.pem"])


def test_a_folder_with_a_link_is_neither_signed_nor_verified(
    model: Path, keys: Path, tmp_path: Path
) -> None:
    signature, who = with_key(model, keys)
    for target in (model.parent, model / "config.json", "/dev/zero", "nowhere"):
        (model / "link").symlink_to(target)
        with pytest.raises(SignatureError, match="link is a link"):
            verify_signature(model, signature, **who)
        with pytest.raises(SignatureError, match="link is a link"):
            sign(model, tmp_path / "a.sig", private_key=keys / "key.pem")
        (model / "link").unlink()
    verify_signature(model, signature, **who)


def test_what_hubs_add_is_passed_over_with_a_note(model: Path, keys: Path) -> None:
    signature, who = with_key(model, keys)
    assert verify_signature(model, signature, **who) == ""
    (model / ".gitattributes").write_text("* filter=lfs")
    (model / ".cache/huggingface/download").mkdir(parents=True)
    (model / ".cache/huggingface/download/config.json.metadata").write_text("")
    assert ".gitattributes, .cache/huggingface" in verify_signature(model, signature, **who)
    program = str(Path(sys.executable).with_name("model_signing"))
    command = [program, "verify", "key", model, "--signature", signature, "--public_key"]
    subprocess.run([*map(str, command), str(keys / "key.pub")], check=True, capture_output=True)
    (model / ".cache/huggingface/modeling.py").write_text("print()")
    with pytest.raises(SignatureError, match="not covered by the signature"):
        verify_signature(model, signature, **who)


def test_a_single_file_can_be_signed(model: Path, keys: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF and more")
    sign(file, tmp_path / "a.sig", private_key=keys / "key.pem")
    verify_signature(file, tmp_path / "a.sig", public_key=keys / "key.pub")
    flip_bit(file, 5)
    with pytest.raises(SignatureError, match=r"is not what was signed: it has changed$"):
        verify_signature(file, tmp_path / "a.sig", public_key=keys / "key.pub")


def test_a_signature_within_the_model_is_refused(model: Path, keys: Path) -> None:
    with pytest.raises(SignatureError, match="beside"):
        sign(model, model / "model.sig", private_key=keys / "key.pem")


def test_nothing_is_asked_of_the_network(model: Path, keys: Path) -> None:
    """In a network namespace without interfaces, where the kernel lets us make one."""
    signature, _ = with_key(model, keys)
    alone = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    script = "import sys; from remerge.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["verify-signature", model, "--signature", signature, "--key", keys / "key.pub"]
    source = str(Path(__file__).parents[2] / "src")
    subprocess.run(
        [*alone, sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": source},
        check=True,
    )


def test_the_commands_sign_and_verify(
    model: Path, keys: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["sign", str(model), "--key", str(keys / "key.pem")]) == 0
    verify = ["verify-signature", str(model), "--key", str(keys / "key.pub")]
    assert cli.main(verify) == 0
    assert capsys.readouterr().out.endswith(f"{model} is what was signed\n")
    flip_bit(model / "config.json", 3)
    assert cli.main(verify) == 1
    said = f"error: {model} is not what was signed: changed: config.json\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b"[" * 100_000, b'{"dsseEnvelope":[]}',
        b'{"dsseEnvelope":{"payload":7}}', b'{"dsseEnvelope":{"payload":"bm8="}}',
        b'{"dsseEnvelope":{"payload":"e30="}}', b"\xff",
    ],
)  # fmt: skip
def test_what_is_no_signature_is_one_line(model: Path, keys: Path, content: bytes) -> None:
    signature = model.with_name("forged.sig")
    signature.write_bytes(content)
    with pytest.raises(SignatureError) as caught:
        verify_signature(model, signature, public_key=keys / "key.pub")
    assert str(caught.value).isprintable()


def test_a_signature_without_end_is_not_read_whole(model: Path, keys: Path) -> None:
    signature = model.with_name("long.sig")
    with signature.open("wb") as file:
        file.truncate(JSON_LIMIT + 1)  # a hole: takes no room on the disk
    with pytest.raises(SignatureError, match="larger than"):
        verify_signature(model, signature, public_key=keys / "key.pub")
    signature.unlink()
    os.mkfifo(signature)
    with pytest.raises(SignatureError, match="not a regular file"):
        verify_signature(model, signature, public_key=keys / "key.pub")


@pytest.mark.parametrize(
    "resources",
    [None, {}, [1], [{"name": 1, "digest": ""}], [{"name": "a"}],
     [{"name": "a", "digest": ""}, {"name": "a", "digest": ""}]],
)  # fmt: skip
def test_a_malformed_list_of_signed_files_is_refused(resources: object) -> None:
    statement = json.dumps({"predicate": {"resources": resources}}).encode()
    bundle = {"dsseEnvelope": {"payload": base64.b64encode(statement).decode()}}
    with pytest.raises(SignatureError, match="list of files is malformed"):
        signed_files(bundle, "x.sig")
