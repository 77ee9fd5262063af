"""`remerge merge` takes models of a hub: pinned beside the file, fetched once, verified."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from remerge.cli import main
from tests.proof.models import llama, save
from tests.sources.hub_server import HubServer, Other, reachable_hub

CONFIG = """\
merge_method: linear
models:
  - {model: ann/first, parameters: {weight: 0.4}}
  - {model: bob/second@v1, parameters: {weight: 0.6}}
dtype: float16
"""


def files_of(folder: Path) -> dict[str, bytes | Path]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with reachable_hub(monkeypatch, tmp_path / "hub-cache") as server:
        monkeypatch.chdir(tmp_path)
        for seed, name in enumerate(("ann/first", "bob/second")):
            save(tmp_path / "local" / name, llama(seed))
            repo = server.add(name, files_of(tmp_path / "local" / name))
            repo.tags["v1"] = repo.head
        (tmp_path / "merge.yml").write_text(CONFIG)
        yield server


def merged_id(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["merge", "merge.yml", *words]) == 0
    return capsys.readouterr().out.split()[0]


def test_model_of_the_hub_is_pinned_fetched_and_merged(
    hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", "merge.yml", "out"]) == 1
    said = capsys.readouterr().err
    assert "merge.yml:3: there is no model 'ann/first'" in said and "`remerge pin`" in said
    assert main(["pin", "merge.yml"]) == 0
    assert "wrote merge.pins.yaml; `remerge merge` takes these" in capsys.readouterr().out
    assert main(["pin", "merge.yml", "--check"]) == 0
    capsys.readouterr()
    from_hub = merged_id(capsys, "out")
    (made,) = Path(".scratch/hub").glob("first-*")
    times = made.stat().st_mtime_ns
    assert merged_id(capsys, "again") == from_hub
    assert made.stat().st_mtime_ns == times
    Path("merge.yml").write_text(CONFIG.replace("@v1", ""))
    assert merged_id(capsys, "here", "--models", "local") == from_hub


def test_other_bytes_than_the_pinned_are_no_model(
    hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pin", "merge.yml"]) == 0
    hub.fail("model.safetensors", *[Other()] * 20)
    assert main(["merge", "merge.yml", "out"]) == 1
    assert "SHA-256" in capsys.readouterr().err
    assert not Path("out").exists()


def test_kept_model_that_was_changed_is_refused(
    hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pin", "merge.yml"]) == 0
    merged_id(capsys, "out")
    (made,) = Path(".scratch/hub").glob("second-*")
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["inputs"] = {"second": {"files": {}}}
    (made / "manifest.json").write_text(json.dumps(manifest))
    assert main(["merge", "merge.yml", "again"]) == 1
    assert f"{made}: is not what was fetched" in capsys.readouterr().err


def test_pins_of_a_file_grow_with_it(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pin", "merge.yml"]) == 0
    pinned = Path("merge.pins.yaml").read_text()
    more = "  - {model: ann/first+bob/lora, parameters: {weight: 1}}\n"
    Path("merge.yml").write_text(CONFIG.replace("dtype:", more + "dtype:"))
    assert main(["pin", "merge.yml", "--check"]) == 1
    assert "lacks models of merge.yml" in capsys.readouterr().err
    assert main(["merge", "merge.yml", "out"]) == 1
    assert "there is no adapter 'bob/lora'" in capsys.readouterr().err
    assert main(["pin", "merge.yml"]) == 1  # the hub has no such repository
    grown = Path("merge.pins.yaml").read_text()
    assert grown.startswith(pinned) and "kind: adapter" in grown
    assert main(["merge", "merge.yml", "out"]) == 1
    assert "'lora' is not pinned yet" in capsys.readouterr().err
