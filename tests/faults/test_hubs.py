"""Rows 80 to 84: a hub, mirror or proxy that is hostile."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from remerge.errors import RemergeError
from remerge.pins import lookup
from remerge.pins.lookup import look_up
from remerge.pins.pin import pin_files
from remerge.sources import requests
from remerge.sources.delivery import Delivery
from remerge.sources.files import open_files
from remerge.sources.hub import Patience
from remerge.sources.pinned import parse_source
from remerge.sources.requests import Pace
from tests.faults.rows import fault
from tests.faults.samples import SAMPLES, every_sample
from tests.sources.conftest import hub  # noqa: F401
from tests.sources.hub_server import Asked, HubServer
from tests.sources.replay import Replay

assert every_sample()
HURRY = Patience(attempts=2, first_wait_s=0.01)
SECONDS = 6.0
ENTRY = {"kind": "model", "repo": "some/model"}
PINNED = ENTRY | {
    "revision": "a" * 40,
    "files": {name: {"sha256": "c" * 64, "size": 10**9} for name in ("config.json", "w.bin")},
}
RECIPE = "sources:\n  made:\n    kind: model\n    repo: some/model\n    revision: null\n"


@pytest.fixture
def hurry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "PACE", Pace(window_s=0.5, least_bytes=1000))
    monkeypatch.setattr(lookup, "Patience", lambda: HURRY)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


def _refused(action: Callable[[], object], name: str) -> str:
    began = time.monotonic()
    with pytest.raises(RemergeError) as caught:
        action()
    took, line = time.monotonic() - began, str(caught.value)
    assert took < SECONDS, (name, took)
    assert line.isprintable() and len(line) < 700, (name, line)
    return line


@fault(
    80,
    "a hub, mirror or proxy that sends answers, errors or headers without end, by drips, "
    "compressed, in circles, or asks to wait for years",
    sees="`error: source NAME: HUB answers with …`, `… is too slow to send …`, `… asks to wait …`; "
    "megabytes are read at most, and a minute without 300 kB ends an attempt",
    then="the same until HF_ENDPOINT names another hub",
)
@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("name", SAMPLES["hub"])
def test_a_hostile_hub_ends_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SAMPLES["hub"][name](tmp_path / "sample")
    source = parse_source("made", PINNED)
    with Replay(tmp_path / "sample") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        line = _refused(lambda: look_up(ENTRY, "main", "source 'made'"), name)
        assert line.startswith("source 'made': ")
        if name != "endless_answer":  # a gigabyte of it is what was pinned
            delivery = Delivery(patience=HURRY)
            with open_files(source, root=tmp_path, scratch=tmp_path, delivery=delivery) as files:
                assert "made" in _refused(lambda: files.take("w.bin"), name)
        assert server.requests <= 24
        assert server.sent < 50_000_000


@fault(
    81,
    "a hub that lists what no repository holds: names with line ends or escapes, digests that are "
    "YAML, sizes that are no numbers, a file twice, pages without end",
    sees="`error: source NAME: HUB says of REPO what no hub says (…)`, or the name, escaped; "
    "the file of pins stays as it was",
    then="the same until HF_ENDPOINT names another hub",
)
@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("name", SAMPLES["hub list"])
def test_pin_writes_nothing_of_a_hostile_list(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SAMPLES["hub list"][name](tmp_path / "sample")
    (tmp_path / "pins.yaml").write_text(RECIPE)
    with Replay(tmp_path / "sample", lists=True) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        line = _refused(lambda: pin_files([tmp_path / "pins.yaml"]), name)
    assert "made" in line, line
    assert (tmp_path / "pins.yaml").read_text() == RECIPE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pins.yaml", "sample"]


@fault(
    82,
    "a hub whose redirects and page links lead to another server",
    sees="nothing: pages are asked of the same hub, files come from where it says; the token stays",
    then="the same",
)
def test_no_other_server_gets_the_token(
    hub: HubServer,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_this_test")
    files = {f"part{i}.json": b"{}" for i in range(5)} | {"config.json": b"{}", "model.bin": b"w"}
    repo = hub.add("some/model", {**files, "pytorch_model.bin": b"w" * 9}, gated=True)
    hub.page_size, hub.page_link = 3, hub.storage_url
    entry = ENTRY | {"select": ["config.json", "pytorch_model.bin"]}
    found = look_up(entry, "main", "source 'made'")
    assert sorted(found.files) == ["config.json", "pytorch_model.bin"]
    source = parse_source("made", entry | {
        "revision": repo.head,
        "files": {n: {"sha256": p.sha256, "size": p.size} for n, p in found.files.items()},
    })  # fmt: skip
    with open_files(source, root=tmp_path, scratch=tmp_path) as opened:
        assert opened.take("pytorch_model.bin").read_bytes() == b"w" * 9
    home = hub.url.removeprefix("http://")
    assert {r.host for r in hub.requests} == {home, hub.storage_url.removeprefix("http://")}
    assert all((r.token != "") == (r.host == home) for r in hub.requests)
    assert sum("/tree/" in r.path for r in hub.requests) == 3


@fault(
    83,
    "a busy hub that says when it may be asked again, by `Retry-After` or `RateLimit`",
    sees="`source NAME: FILE: waiting 42 s, as HUB asks`, then the file; beyond 15 minutes "
    "an error",
    then="goes on from where it was",
)
@pytest.mark.parametrize("asked", ["2", "date", '"api";r=0;t=2', "limit=9, remaining=0, reset=2"])
def test_a_stated_wait_is_kept_and_shown(
    asked: str,
    hub: HubServer,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = os.urandom(20_000)
    repo = hub.add("some/model", {"w.bin": data})
    pins = {"w.bin": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}}
    source = parse_source("made", ENTRY | {"revision": repo.head, "files": pins})
    name = "Retry-After" if asked in ("2", "date") else "RateLimit"
    hub.fail("w.bin", Asked(429, name, asked))
    began = time.monotonic()
    with open_files(
        source, root=tmp_path, scratch=tmp_path, delivery=Delivery(patience=HURRY)
    ) as files:
        assert files.take("w.bin").read_bytes() == data
    assert 1.9 < time.monotonic() - began < 5
    assert f"w.bin: waiting 2 s, as {hub.url} asks\n" in capsys.readouterr().err
