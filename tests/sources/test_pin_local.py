"""Files on disk are pinned like any others: hashed, checked, from anywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from remerge.errors import RemergeError, SourceError
from remerge.files import sha256_of
from remerge.pins.pin import check_files, pin_files
from remerge.sources.pinned import local_files, parse_sources
from tests.pipeline.closure import SRC

EMBEDDED = SRC.parent / "embedded" / "sources"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "else where" / "sorting"
    shutil.copytree(EMBEDDED / "sorting", folder)
    (folder / "training_args.bin").write_bytes(b"stray")
    return folder


def pins(folder: Path, path: str, **more: str) -> Path:
    file = folder / "pins.yaml"
    entry = {"kind": "model", "path": path, **more}
    lines = "".join(f"    {key}: {value}\n" for key, value in entry.items())
    file.write_text(f"# mine\nsources:\n  s:  # by hand\n{lines}# the end\n")
    return file


def test_files_on_disk_are_hashed_and_can_be_fetched(model: Path, tmp_path: Path) -> None:
    file = pins(tmp_path, str(model))
    report = pin_files([file])
    assert report.written == (file,) and "(hashed), 7 files, 3.79 MB" in report.lines[0]
    text = file.read_text()
    assert text.startswith("# mine\nsources:\n  s:  # by hand\n") and text.endswith("# the end\n")
    (source,) = parse_sources(yaml.safe_load(text)).values()
    assert set(source.files) == {p.name for p in model.iterdir()} - {"training_args.bin"}
    for name, path in local_files(source, tmp_path / "nowhere").items():
        assert source.files[name].sha256 == sha256_of(path)
    assert not check_files([file]).broken
    assert "(kept)" in pin_files([file]).lines[0] and file.read_text() == text


@pytest.mark.parametrize("path", ["~/sorting", "../else where/sorting"])
def test_path_from_home_or_beside_the_project_is_followed(
    model: Path, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(model.parent))
    (tmp_path / "project").mkdir()
    assert pin_files([pins(tmp_path, path)], root=tmp_path / "project").written


def test_check_fails_while_a_pin_is_missing_or_wrong(model: Path, tmp_path: Path) -> None:
    file = pins(tmp_path, str(model))
    report = check_files([file])
    assert report.broken and report.lines == ["s: not pinned (no digests of its files)"]
    pin_files([file])
    config = model / "config.json"
    text = config.read_text()
    config.write_text(text.replace("llama", "Llama"))
    report = check_files([file])
    assert report.broken and "has SHA-256" in report.lines[0]
    config.write_text(text + "\n")
    with pytest.raises(SourceError, match=r"bytes, pinned are .*`--update` pins the files"):
        pin_files([file])
    assert pin_files([file], update=True).written and not check_files([file]).broken


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"path": "nowhere"}, "is no folder"),
        ({"path": "~nosuchuser/x"}, "home directory"),
        ({"path": ""}, "neither a repo of the hub nor a path"),
        ({"path": "m", "kind": "[]"}, "kind is"),
    ],
)
def test_what_cannot_be_pinned_is_refused(
    model: Path, tmp_path: Path, entry: dict[str, str], says: str
) -> None:
    shutil.copytree(model, tmp_path / "m")
    with pytest.raises(RemergeError, match=says):
        pin_files([pins(tmp_path, **entry)], root=tmp_path)


def test_links_are_followed_within_the_hub_cache_only(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    snapshot = cache / "snapshots" / ("0" * 40)
    (cache / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in model.iterdir():
        shutil.copy(path, cache / "blobs" / sha256_of(path))
        (snapshot / path.name).symlink_to(f"../../blobs/{sha256_of(path)}")
    file = pins(tmp_path, str(snapshot))
    pin_files([file])
    assert not check_files([file]).broken
    (tmp_path / "secret").write_text("{}")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceError, match="is a link out of its folder; refused"):
        pin_files([pins(tmp_path, str(snapshot))])
