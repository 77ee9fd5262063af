"""`remerge release` puts a model and its own card into one folder, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from remerge.cli import main
from remerge.errors import CheckpointError
from remerge.methods.gradient import Gradient, plan_gradient
from remerge.proof.check import check_folder
from remerge.proof.digests import identify
from remerge.proof.signing import sign, verify_signature
from remerge.report import release
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import open_checkpoint
from tests.proof.models import flip_bit, llama, save, save_gguf
from tests.sources.hub_server import HubServer


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The outputs of a pipeline, as far as a release looks at them: a merge and two formats."""
    first, second = (save(tmp_path / f"m{i}", llama(i)) for i in (1, 2))
    plan = plan_gradient(
        open_checkpoint(first),
        open_checkpoint(second),
        Gradient((0.0, 1.0), "tensors", "all", ""),
        dtype="F16",
        shard_bytes=10**9,
    )
    final = tmp_path / "merged/final"
    final.parent.mkdir()
    files = companions_of(first)
    build(plan, final, companions=files, scratch=tmp_path / "scratch", threads=2)
    for name in ("gguf_q4_0", "gguf_q8_0"):
        folder = tmp_path / "quantized" / name
        folder.mkdir(parents=True)
        data = save_gguf(folder / "model.gguf", {"a": llama(1, "F32")["lm_head.weight"]})
        digest = hashlib.sha256(data.read_bytes()).hexdigest()
        entry = {"size": data.stat().st_size, "sha256": digest}
        (folder / "manifest.json").write_text(json.dumps({"files": {"model.gguf": entry}}))
    places = [p for top in ("merged", "quantized") for p in (tmp_path / top).rglob("*")]
    sums = sorted(str(p.relative_to(tmp_path)) for p in places if p.is_file())
    report = tmp_path / "report"
    report.mkdir()
    for name in ("README.md", "LICENSE.md", "provenance.json", "bom.cdx.json"):
        (report / name).write_text(f"{name} of {identify(final).model_id}")
    made = subprocess.run(
        ["sha256sum", *sums], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    (report / "SHA256SUMS").write_text(made.stdout)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_card_lies_beside_the_model_and_nothing_is_copied(project: Path) -> None:
    assert main(["release", "upload", "--formats", "gguf_q4_0"]) == 0
    files = {p.relative_to("upload").as_posix() for p in Path("upload").rglob("*") if p.is_file()}
    assert files == {
        "README.md", "LICENSE.md", "provenance.json", "bom.cdx.json", "SHA256SUMS",
        "model.safetensors", "config.json", "manifest.json",
        "gguf_q4_0/model.gguf", "gguf_q4_0/manifest.json",
    }  # fmt: skip
    assert Path("upload/model.safetensors").samefile("merged/final/model.safetensors")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd="upload", check=True)
    assert len(Path("upload/SHA256SUMS").read_text().splitlines()) == len(files) - 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: Path("upload").mkdir(), "is there already"),
        (lambda: Path("report/README.md").write_text("of another"), "card of another model"),
        (lambda: Path("report/LICENSE.md").unlink(), "report/LICENSE.md: is not there"),
        (lambda: Path("merged/final/model.safetensors").write_text("cut"), "has 3 bytes"),
        (lambda: flip_bit(Path("merged/final/model.safetensors"), 9000), "has changed"),
        (lambda: Path("merged/final/secret.txt").write_text("x"), "is not listed"),
        (lambda: Path("merged/final/secret").symlink_to("/etc/hostname"), "is a link"),
        (lambda: Path("merged/final/a").symlink_to("/etc"), "is a link"),
        (lambda: os.mkfifo("merged/final/pipe"), "is a FIFO"),
        (lambda: Path("report/SHA256SUMS").write_text(""), "does not list"),
        (lambda: Path("quantized/gguf_q8_0/manifest.json").unlink(), "is not built"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    spoil: object, said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(spoil)
    spoil()
    assert main(["release", "upload", "--formats", "gguf_q8_0"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not list(Path("upload").glob("*"))
    assert not list(Path().glob(".upload*"))


def test_a_release_that_is_cut_off_leaves_no_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release.os, "link", full)
    monkeypatch.setattr(release.shutil, "copyfile", full)
    assert main(["release", "upload"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not Path("upload").exists()
    assert not list(Path().glob(".upload*"))


@pytest.mark.parametrize("way", ["local_dir", "snapshot"])
def test_a_release_from_a_hub_verifies(
    way: str, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from huggingface_hub import snapshot_download

    assert main(["release", "upload", "--formats", "gguf_q4_0"]) == 0
    keys = tmp_path_factory.mktemp("keys")
    make = "ecparam -name prime256v1 -genkey -noout -out key.pem"
    subprocess.run(["openssl", *make.split()], cwd=keys, check=True)
    make = "ec -in key.pem -pubout -out key.pub"
    subprocess.run(["openssl", *make.split()], cwd=keys, check=True, capture_output=True)
    sign("upload", keys / "upload.sig", private_key=keys / "key.pem")
    with HubServer() as hub:
        files = {p.relative_to("upload").as_posix(): p for p in Path("upload").rglob("*")}
        uploaded = {name: path for name, path in files.items() if path.is_file()}
        hub.add("us/model", uploaded | {".gitattributes": b"*.gguf filter=lfs diff=lfs"})
        options = {"local_dir": project / "got"} if way == "local_dir" else {}
        got = Path(
            snapshot_download(
                "us/model", endpoint=hub.url, cache_dir=keys / "cache", token=False, **options
            )
        )
    if way == "snapshot":  # links into the client's cache, which the message says how to copy
        assert main(["check", str(got)]) == 1
        subprocess.run(["cp", "-rL", str(got), "got"], check=True)
        got = Path("got")
    check = check_folder(got, expect=identify("merged/final").model_id)
    assert check.as_expected, check.problems
    assert ".gitattributes" in check.note and (".cache" in check.note) == (way == "local_dir")
    verify_signature(got, keys / "upload.sig", public_key=keys / "key.pub")
    program = str(Path(sys.executable).with_name("model_signing"))
    command = [program, "verify", "key", got, "--signature", keys / "upload.sig", "--public_key"]
    subprocess.run([*map(str, command), str(keys / "key.pub")], check=True, capture_output=True)
    for name in ("README.md", "config.json", "SHA256SUMS", "gguf_q4_0/model.gguf"):
        (got / name).chmod(0o644)
        flip_bit(got / name, 5)
        with suppress(CheckpointError):
            assert check_folder(got).problems, name
        flip_bit(got / name, 5)


CARD = """\
---
license: mit
---

# My Model

The model is {id}.

## Formats

| format | runs in |
|---|---|
| `gguf_q4_0` | llama.cpp |
| `gguf_q8_0` | llama.cpp |

Perplexity.

## Rebuild and verify

In a checkout.
"""


def name_formats(project: Path) -> None:
    """Give the build a card with a title, and manifests that name their file."""
    identity = identify(project / "merged/final").model_id
    (project / "report/README.md").write_text(CARD.format(id=identity))
    for name in ("gguf_q4_0", "gguf_q8_0"):
        path = project / "quantized" / name / "manifest.json"
        manifest = json.loads(path.read_text()) | {"file": "model.gguf", "format": name}
        path.write_text(json.dumps(manifest))
    places = [p for top in ("merged", "quantized") for p in (project / top).rglob("*")]
    sums = sorted(str(p.relative_to(project)) for p in places if p.is_file())
    made = subprocess.run(["sha256sum", *sums], check=True, capture_output=True, text=True)
    (project / "report/SHA256SUMS").write_text(made.stdout)


def test_released_files_and_card_name_the_model(project: Path) -> None:
    name_formats(project)
    before = {p: p.read_bytes() for top in ("report", "quantized") for p in Path(top).rglob("*.*")}
    where = ["--project", "https://example.org/me/p", "--commit", "ab" * 20]
    assert main(["release", "upload", "--formats", "gguf_q4_0", *where]) == 0
    assert Path("upload/gguf_q4_0/My-Model.Q4_0.gguf").is_file()
    card = Path("upload/README.md").read_text()
    assert "| `gguf_q4_0/My-Model.Q4_0.gguf` | llama.cpp |" in card
    assert "gguf_q8_0" not in card
    assert "git clone https://example.org/me/p project" in card
    assert f"git checkout {'ab' * 20}" in card
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd="upload", check=True)
    assert not check_folder(Path("upload")).problems
    assert not check_folder(Path("upload/gguf_q4_0")).problems
    assert before == {p: p.read_bytes() for p in before}  # outputs are hard links: none is edited


def test_card_without_formats_has_no_empty_table(project: Path) -> None:
    name_formats(project)
    assert main(["release", "upload"]) == 0
    card = Path("upload/README.md").read_text()
    assert "## Formats" not in card and "## Rebuild and verify" in card


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--project", "https://me:secret@example.org/p", "without a password"),
        ("--project", "https://x.org/a`rm -rf`", "expected an address"),
        ("--project", "-oProxyCommand=x", "expected"),
        ("--commit", "main", "expected the 40 digits"),
    ],
)
def test_address_or_commit_that_is_none_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, says: str
) -> None:
    name_formats(project)
    with suppress(SystemExit):
        assert main(["release", "upload", f"{option}={value}"]) == 1
    said = capsys.readouterr().err
    assert says in said and "secret" not in said
    assert not Path("upload").exists()
