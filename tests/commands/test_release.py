"""`remerge release` puts a model and its own card into one folder, whole or not at all."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from remerge.cli import main
from remerge.report import release

ID = "a" * 64


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The outputs of a pipeline, as far as a release looks at them."""
    sums = []
    for folder, files in {
        "merged/final": ["model.safetensors", "config.json"],
        "quantized/gguf_q4_0": ["model.gguf"],
        "quantized/gguf_q8_0": ["model.gguf"],
    }.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in files:
            (tmp_path / folder / name).write_text(f"{folder}/{name}")
        entries = {name: {"size": len(f"{folder}/{name}")} for name in files}
        manifest = {"model_id": ID, "files": entries}
        (tmp_path / folder / "manifest.json").write_text(json.dumps(manifest))
        sums += [f"{folder}/{name}" for name in [*files, "manifest.json"]]
    report = tmp_path / "report"
    report.mkdir()
    for name in ("README.md", "LICENSE.md", "provenance.json", "bom.cdx.json"):
        (report / name).write_text(f"{name} of {ID}")
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
        (lambda: Path("merged/final/model.safetensors").write_text("cut"), "incomplete"),
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
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release.os, "link", full)
    monkeypatch.setattr(release.shutil, "copyfile", full)
    assert main(["release", "upload"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not Path("upload").exists()
    assert not list(Path().glob(".upload*"))
