"""The stage `fetch` as the pipeline runs it: checked first, then resumed where it was cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from remerge.errors import SourceError
from remerge.stages.fetch import fetch
from tests.sources.hub_server import Cut, HubServer, Repo, Status, sha256_of, size_of
from tests.sources.made_params import made_params, write_params

EMBEDDED = Path(__file__).resolve().parents[2] / "embedded" / "sources"
LAST = "pytorch_model-00003-of-00003.bin"


def entry(repo: Repo, out: str, kind: str = "model") -> dict[str, Any]:
    files = {
        path: {"sha256": sha256_of(content), "size": size_of(content)}
        for path, content in repo.files[repo.head].items()
    }
    return {"kind": kind, "repo": repo.name, "revision": repo.head, "files": files, "out": out}


@pytest.fixture
def work(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose parameters name a base, of three pickled shards, and a donor."""
    base = hub.add_folder("embedded/addition", EMBEDDED / "addition")
    donor = hub.add_folder("embedded/sorting", EMBEDDED / "sorting")
    folder = tmp_path / "work"
    folder.mkdir()
    sources = {"base": entry(base, "models/base"), "donor": entry(donor, "models/donor")}
    write_params(folder, made_params(sources))
    monkeypatch.chdir(folder)
    return folder


def partials(work: Path) -> list[str]:
    return [path.name for path in (work / "scratch").rglob(".*.partial")]


def asked(hub: HubServer, file: str) -> list[str]:
    """Ranges of the downloads of a file; those of known length read headers."""
    ranges = [r.byte_range for r in hub.bytes_of(file) if r.path.startswith("/blob")]
    return [r for r in ranges if not r or r.endswith("-")]


def test_an_interrupted_fetch_goes_on_from_there_when_it_is_run_again(
    hub: HubServer, work: Path
) -> None:
    hub.fail(LAST, Cut(100_000), Status(403))
    with pytest.raises(SourceError, match="answers 403"):
        fetch("base")
    assert partials(work) == [f".{LAST}.partial"]
    hub.requests.clear()
    fetch("base")
    assert asked(hub, LAST) == ["bytes=100000-"]
    assert list((work / "scratch" / "downloads").rglob("*")) == []


def test_looking_at_the_base_for_a_donor_leaves_the_bases_download_alone(
    hub: HubServer, work: Path
) -> None:
    hub.fail(LAST, Cut(100_000), Status(403))
    with pytest.raises(SourceError, match="answers 403"):
        fetch("base")
    fetch("donor")
    assert partials(work) == [f".{LAST}.partial"]
    hub.requests.clear()
    fetch("base")
    assert asked(hub, LAST) == ["bytes=100000-"]
