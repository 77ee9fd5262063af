"""A folder is checked byte by byte against its manifest, and repair is spelled out."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from remerge import cli
from remerge.errors import CheckpointError
from remerge.merge.gradient import Gradient, plan_gradient
from remerge.proof.check import check_folder, repair
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import open_checkpoint
from tests.proof.models import flip_bit, llama, save


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
    expected = {said, "config.json is missing", "notes.txt is not in the manifest"}
    found = problems(merged)
    assert set(found) == expected
    assert len(found) == 3


def test_a_manifest_that_fits_its_forged_tensors_has_another_id(merged: Path) -> None:
    original = check_folder(merged).model_id
    manifest = json.loads((merged / "manifest.json").read_text())
    info = open_checkpoint(merged).tensors["model.norm.weight"]
    flip_bit(info.path, info.offset)
    data = info.path.read_bytes()[info.offset : info.offset + info.nbytes]
    manifest["tensors"]["model.norm.weight"]["sha256"] = hashlib.sha256(data).hexdigest()
    (merged / "manifest.json").write_text(json.dumps(manifest))
    assert problems(merged) == ["manifest.json names another model id than its tensors have"]
    manifest["model_id"] = check_folder(merged).model_id
    (merged / "manifest.json").write_text(json.dumps(manifest))
    assert problems(merged) == []
    assert len(problems(merged, expect=original)) == 1


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


def test_repair_removes_what_is_linked_with_the_cache(merged: Path, tmp_path: Path) -> None:
    shard = min(merged.glob("model-*"))
    assert repair(check_folder(merged)) == [f"# fetch {merged} again from where it came"]
    (tmp_path / ".dvc").mkdir()
    flip_bit(shard, 5)
    assert not any("find" in line for line in repair(check_folder(merged)))
    os.link(shard, tmp_path / "in the cache")
    assert f'find -L "$(dvc cache dir)" -samefile {shard} -delete' in repair(check_folder(merged))


def test_the_command_says_what_is_damaged_and_how_to_repair_it(
    merged: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["check", str(merged)]) == 0
    assert "files as in the manifest" in capsys.readouterr().out
    flip_bit(merged / "config.json", 3)
    assert cli.main(["check", str(merged)]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == [f"{merged}/config.json has changed", "repair with:"]
    assert cli.main(["check", "--json", str(merged)]) == 1
    assert json.loads(capsys.readouterr().out)[str(merged)]["problems"][0]["file"] == "config.json"
