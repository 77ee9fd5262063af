"""What is collected of formats and scores for the report."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from remerge.errors import CheckpointError
from remerge.report.collected import collect_folders
from remerge.tensors.json_files import write_json


def test_a_folder_is_collected_with_its_statement_and_digests(tmp_path: Path) -> None:
    format_, scores = tmp_path / "format", tmp_path / "scores"
    write_json(format_ / "manifest.json", {"format": "gguf_f16"})
    (format_ / "model.gguf").write_bytes(b"GGUF")
    write_json(scores / "scores.json", {"average": 0.5})
    write_json(scores / "answers.json", {"addition": []})
    found = collect_folders([format_, scores])
    assert found[format_.as_posix()] == {
        "files": {
            name: hashlib.sha256((format_ / name).read_bytes()).hexdigest()
            for name in ("manifest.json", "model.gguf")
        },
        "stated": {"format": "gguf_f16"},
    }
    assert found[scores.as_posix()]["stated"] == {"average": 0.5}
    assert found[scores.as_posix()]["answers"] == {"addition": []}


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_statement_is_refused(made: bool, tmp_path: Path) -> None:
    folder = tmp_path / "format"
    if made:
        folder.mkdir()
        (folder / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="build it first"):
        collect_folders([folder])
