"""A hub on loopback for every test, and sources pinned to what it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remerge.sources.delivery import Delivery
from remerge.sources.hub import Patience
from remerge.sources.pinned import Source, parse_source
from tests.sources.hub_server import HubServer, Repo, reachable_hub, sha256_of, size_of

#: As the real one, but in a hurry.
HURRY = Delivery(workers=2, patience=Patience(attempts=3, first_wait_s=0.01))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with reachable_hub(monkeypatch, tmp_path / "hub-cache") as server:
        yield server


Pinned = Callable[..., Source]


@pytest.fixture
def pinned() -> Pinned:
    """Pins a repository at its head as a source."""

    def pin(
        repo: Repo, kind: str = "model", leave_out: tuple[str, ...] = (), **entry: object
    ) -> Source:
        subfolder = str(entry.get("subfolder", ""))
        prefix = f"{subfolder}/" if subfolder else ""
        files = {
            path.removeprefix(prefix): {"sha256": sha256_of(content), "size": size_of(content)}
            for path, content in repo.files[repo.head].items()
            if path.startswith(prefix) and path not in leave_out
        }
        return parse_source(
            repo.name.split("/")[1],
            {"kind": kind, "repo": repo.name, "revision": repo.head, "files": files, **entry},
        )

    return pin
