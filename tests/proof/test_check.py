"""A folder is checked byte by byte against its manifest, and repair is spelled out."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from remerge import cli
from remerge.errors import CheckpointError
from remerge.methods.gradient import Gradient, plan_gradient
from remerge.proof.check import check_folder
from remerge.proof.contents import read_contents
from remerge.proof.digests import identify
from remerge.proof.repair import repair
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import open_checkpoint
from tests.proof.models import flip_bit, llama, save, save_gguf


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """A merge of several shards, as a stage makes it."""
    first, second = save(tmp_path / "first", llama(1)), save(tmp_path / "second", llama(2))
    (first / "tokenizer.model").write_bytes(b"pieces")
    plan = plan_gradient(
        open_checkpoint(first),
        open_checkpoint(second),
        Gradient((0.0, 1.0), "tensors", "all", ""),
        dtype="F16",
        shard_bytes=10000,
    )
    out = tmp_path / "merged"
    build(plan, out, companions=companions_of(first), scratch=tmp_path / "scratch", threads=2)
    return out


def problems(folder: Path, **options: str) -> list[str]:
    return [str(problem) for problem in check_folder(folder, **options).problems]


def test_a_fresh_merge_is_what_its_manifest_says(merged: Path) -> None:
    check = check_folder(merged)
    assert check.problems == ()
    assert check.model_id == json.loads((merged / "manifest.json").read_text())["model_id"]
    assert check.nbytes == sum(
        path.stat().st_size for path in merged.iterdir() if path.name != "manifest.json"
    )


@pytest.mark.parametrize("bit", [0, 7])
def test_one_flipped_bit_names_its_tensor(merged: Path, bit: int) -> None:
    info = open_checkpoint(merged).tensors["model.layers.1.mlp.up_proj.weight"]
    flip_bit(info.path, info.offset + 100, bit)
    said = f"{info.path.name}: tensor 'model.layers.1.mlp.up_proj.weight' has changed"
    assert problems(merged) == [said]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "model.safetensors.index.json"])
def test_a_changed_companion_is_found(merged: Path, name: str) -> None:
    flip_bit(merged / name, 3)
    assert problems(merged) == [f"{name} has changed"]


def test_a_changed_header_is_found_and_misleads_nobody(merged: Path) -> None:
    shard = min(merged.glob("model-*"))
    flip_bit(shard, 20)
    assert problems(merged) == [f"{shard.name} has a changed header"]


def test_truncated_missing_and_foreign_files_are_found(merged: Path) -> None:
    shard = sorted(merged.glob("model-*"))[1]
    os.truncate(shard, shard.stat().st_size - 1)
    (merged / "config.json").unlink()
    (merged / "notes.txt").write_text("")
    size = shard.stat().st_size
    said = f"{shard.name} has {size} bytes, the manifest says {size + 1}"
    expected = {said, "config.json is missing", "notes.txt is not listed in manifest.json"}
    found = problems(merged)
    assert set(found) == expected
    assert len(found) == 3


def test_only_what_hubs_add_is_passed_over(merged: Path) -> None:
    (merged / ".gitattributes").write_text("*.safetensors filter=lfs")
    notes = merged / ".cache/huggingface/download"
    notes.mkdir(parents=True)
    (notes / "config.json.metadata").write_text("")
    (notes.parent / ".gitignore").write_text("*")
    assert problems(merged) == []
    said = "not checked, as hubs and their clients write it: .gitattributes, .cache/huggingface"
    assert check_folder(merged).note == said
    (notes / "modeling.py").write_text("")
    (merged / "README.md").write_text("")
    (merged / "other").mkdir()
    (merged / "other/manifest.json").write_text("{}")
    assert problems(merged) == [
        ".cache/huggingface/download/modeling.py is not listed in manifest.json",
        "README.md is not listed in manifest.json",
        "other/manifest.json is not listed in manifest.json",
    ]


def test_a_manifest_that_fits_its_forged_tensors_has_another_id(merged: Path) -> None:
    original = check_folder(merged).model_id
    manifest = json.loads((merged / "manifest.json").read_text())
    info = open_checkpoint(merged).tensors["model.norm.weight"]
    flip_bit(info.path, info.offset)
    data = info.path.read_bytes()[info.offset : info.offset + info.nbytes]
    manifest["tensors"]["model.norm.weight"]["sha256"] = hashlib.sha256(data).hexdigest()
    (merged / "manifest.json").write_text(json.dumps(manifest))
    assert problems(merged) == ["manifest.json names another model id than its tensors have"]
    manifest["model_id"] = identify(merged).model_id
    (merged / "manifest.json").write_text(json.dumps(manifest))
    assert problems(merged) == []
    check = check_folder(merged, expect=original)
    assert check.problems == ()
    assert check.other == f"is the model {check.model_id}, not {original}"


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b"])
def test_a_manifest_does_not_lead_out_of_its_folder(merged: Path, name: str) -> None:
    (merged / "manifest.json").write_text(json.dumps({"files": {name: {"size": 1, "sha256": ""}}}))
    with pytest.raises(CheckpointError):
        check_folder(merged)


@pytest.mark.parametrize("content", ["{}", '{"files": {"config.json": 3}}', '{"files": []}', "x"])
def test_a_malformed_manifest_is_one_line(merged: Path, content: str) -> None:
    (merged / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        check_folder(merged)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_manifest_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to check it against"):
        check_folder(save(tmp_path / "a", llama(1)))


def test_repair_wants_an_output_of_a_project(merged: Path) -> None:
    flip_bit(min(merged.glob("model-*")), 5)
    with pytest.raises(CheckpointError, match="fetch it again"):
        repair(merged)
    assert min(merged.glob("model-*"))


def test_another_model_is_no_damage(merged: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["check", str(merged), "--expect", "12" * 32]) == 1
    shown = capsys.readouterr().out
    assert f"not {'12' * 32}" in shown
    assert "repair" not in shown
    assert cli.main(["check", str(merged), "--expect", check_folder(merged).model_id]) == 0


def test_a_gguf_is_checked_against_the_id_of_its_tensors(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "model.gguf", {"a": llama(1, "F32")["lm_head.weight"]})
    data = path.read_bytes()
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    content = {"files": {path.name: entry}}
    identity = identify(path).model_id
    for more in ({}, {"model_id": identity}):
        (tmp_path / "manifest.json").write_text(json.dumps(content | more))
        assert check_folder(tmp_path, expect=identity).as_expected
        assert check_folder(tmp_path, expect="0" * 64).other
        assert not check_folder(tmp_path, expect="0" * 64).problems
    (tmp_path / "manifest.json").write_text(json.dumps(content | {"model_id": "0" * 64}))
    assert problems(tmp_path) == ["manifest.json names another model id than its tensors have"]


@pytest.fixture(scope="module")
def dvc_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a manifest and a score without one, built by the real DVC."""
    root = tmp_path_factory.mktemp("check") / "project"
    save(root / "first", llama(1))
    save(root / "second", llama(2))
    blend = "remerge gradient first second 0 1 --out merged --scratch scratch --shard-size 10000"
    score = 'mkdir scores && echo "{}" > scores/scores.json'
    stages = {
        "blend": {"cmd": blend, "deps": ["first", "second"], "outs": ["merged"]},
        "score": {"cmd": score, "outs": ["scores"]},
    }
    (root / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    for command in ("dvc init --no-scm", "dvc config cache.type hardlink,copy", "dvc repro"):
        in_project(root, command)
    return root


def in_project(root: Path, command: str) -> None:
    variables = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(root.parent / "site"),
    }
    done = subprocess.run(
        command, shell=True, cwd=root, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def replace_in(path: Path, old: bytes, new: bytes) -> None:
    """Change text in place, as root can: the hard link in the cache changes with it."""
    data = path.read_bytes()
    assert old in data
    assert path.stat().st_nlink > 1
    path.chmod(0o644)
    path.write_bytes(data.replace(old, new, 1))


DAMAGES = {
    "another model id": ("merged/manifest.json", b'"model_id": "', b'"model_id": "0'),
    "another digest": ("merged/manifest.json", b'"sha256": "', b'"sha256": "0'),
    "another class": ("merged/manifest.json", b'"exact"', b'"stable"'),
    "no JSON": ("merged/manifest.json", b"{", b"["),
    "a score": ("scores/scores.json", b"{}", b"[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_has_no_witness_of_its_own_is_held_against_the_lock(
    dvc_project: Path, damage: str
) -> None:
    name, old, new = DAMAGES[damage]
    path = dvc_project / name
    right = path.read_bytes()
    assert check_folder(path.parent).problems == ()
    replace_in(path, old, new)
    check = check_folder(path.parent)
    assert check.damaged == (path.name,)
    assert repair(path.parent).objects == 1
    in_project(dvc_project, "dvc pull merged scores || dvc repro")
    assert path.read_bytes() == right
    assert check_folder(path.parent).problems == ()


def test_a_damaged_copy_is_repaired_as_well(dvc_project: Path) -> None:
    shard = min((dvc_project / "merged").glob("model-*"))
    right = shard.read_bytes()
    shard.chmod(0o644)
    flip_bit(shard, len(right) - 1)  # and the object in the cache with it
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data)
    check = check_folder(shard.parent)
    assert check.damaged == (shard.name,)
    assert repair(shard.parent).files > 0
    in_project(dvc_project, "dvc repro")
    assert shard.read_bytes() == right


def test_the_command_says_what_is_damaged_and_how_to_repair_it(
    merged: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["check", str(merged)]) == 0
    assert "files as in manifest.json" in capsys.readouterr().out
    flip_bit(merged / "config.json", 3)
    assert cli.main(["check", str(merged)]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{merged}/config.json has changed"
    assert cli.main(["check", "--json", str(merged)]) == 1
    assert json.loads(capsys.readouterr().out)[str(merged)]["problems"][0]["file"] == "config.json"


def test_a_file_that_changes_after_it_was_listed_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", llama(0))
    path = folder / "config.json"
    whole, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)

    def edited() -> None:
        path.write_bytes(whole[::-1])
        os.utime(path, ns=times)  # the time of change stays behind

    def replaced() -> None:
        (folder / "other").write_bytes(whole)
        (folder / "other").replace(path)

    def linked() -> None:
        path.rename(tmp_path / "config.json")
        path.symlink_to(tmp_path / "config.json")

    for change in (edited, replaced, linked, path.unlink):
        contents = read_contents(folder)
        contents.require_unchanged()
        time.sleep(0.02)  # the clock of a file system ticks every few milliseconds
        change()
        with pytest.raises(CheckpointError, match=r"config\.json: changed while it was read"):
            contents.require_unchanged()
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
