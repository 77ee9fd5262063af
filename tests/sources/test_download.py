"""What arrives from the hub is what was pinned, whatever the network does on the way."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from remerge.errors import SourceError
from remerge.sources.delivery import Delivery
from remerge.sources.files import open_files
from remerge.sources.hub_files import HubFiles
from remerge.sources.pinned import parse_source
from tests.sources.conftest import HURRY, Pinned
from tests.sources.hub_server import Content, Cut, HubServer, Other, Shorter, Status, Whole

CONTENT = os.urandom(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILES = {"weights.bin": CONTENT, "config.json": b'{"model_type": "llama"}', "README.md": b"read me"}


def fetched(hub: HubServer, pinned: Pinned, tmp_path: Path, delivery: Delivery = HURRY) -> bytes:
    """The bytes of `weights.bin` as they come out of the library."""
    repo = hub.repos.get("some/model") or hub.add("some/model", FILES)
    source = pinned(repo, leave_out=("README.md",))
    with open_files(
        source, root=tmp_path, scratch=tmp_path / "scratch", delivery=delivery
    ) as files:
        content = files.take("weights.bin").read_bytes()
        files.release("weights.bin")
        return content


def place(tmp_path: Path) -> Path:
    """Where `weights.bin` of `some/model` waits to be taken."""
    return tmp_path / "scratch" / "downloads" / f"model-{DIGEST[:16]}"


def left_behind(tmp_path: Path) -> list[str]:
    return [p.name for p in (tmp_path / "scratch").rglob("*") if p.is_file()]


def test_listed_files_come_as_pinned_and_others_are_never_asked_for(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    assert fetched(hub, pinned, tmp_path) == CONTENT
    assert not hub.bytes_of("README.md")
    assert left_behind(tmp_path) == []


def test_a_connection_cut_half_way_goes_on_from_where_it_was(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    hub.fail("weights.bin", Cut(1_500_000))
    assert fetched(hub, pinned, tmp_path) == CONTENT
    ranges = [r.byte_range for r in hub.bytes_of("weights.bin") if r.path.startswith("/blob")]
    assert ranges[0] == ""
    assert ranges[1].startswith("bytes=1")
    assert hub.sent < len(CONTENT) + 10_000


def test_a_later_process_goes_on_from_where_an_earlier_one_ended(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    hub.fail("weights.bin", Cut(2_000_000), *[Status(503)] * 9)
    with pytest.raises(SourceError, match="answered 503, 3 times in a row; run it again"):
        fetched(hub, pinned, tmp_path)
    assert left_behind(tmp_path) == [".weights.bin.partial"]
    hub._faults.clear()
    before = hub.sent
    assert fetched(hub, pinned, tmp_path) == CONTENT
    assert hub.sent - before < 1_100_000


def test_a_damaged_beginning_is_replaced_once(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    partial = place(tmp_path) / ".weights.bin.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(1_000_000))
    assert fetched(hub, pinned, tmp_path) == CONTENT


def test_a_finished_file_that_was_damaged_since_is_fetched_again(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    place(tmp_path).mkdir(parents=True)
    (place(tmp_path) / "weights.bin").write_bytes(bytes(len(CONTENT)))
    assert fetched(hub, pinned, tmp_path) == CONTENT


def test_who_waited_for_a_file_that_is_gone_again_fetches_it(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    """Another process fetches the file, uses it up and removes it while we wait for the lock."""
    partial = place(tmp_path) / ".weights.bin.partial"
    partial.parent.mkdir(parents=True)
    with partial.open("w+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(fetched, hub, pinned, tmp_path)
            time.sleep(0.5)
            assert not waiting.done()
            other.write(CONTENT)
            other.flush()
            shutil.rmtree(partial.parent)
            fcntl.flock(other, fcntl.LOCK_UN)
            assert waiting.result(30) == CONTENT


def test_a_file_that_comes_as_the_wait_for_it_ends_is_taken(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    class Late(Future[Path]):
        """Done between the time-out and the question whether it is done."""

        def result(self, timeout: float | None = None) -> Path:
            if timeout is not None and not self.done():
                self.set_result(tmp_path)
                raise TimeoutError
            return super().result(timeout)

    source = pinned(hub.add("some/model", FILES))
    with HubFiles(source, tmp_path / "scratch", HURRY) as files:
        files._wanted["weights.bin"] = Late()
        assert files.take("weights.bin") == tmp_path


def test_two_sources_that_share_a_file_do_not_take_it_from_each_other(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    ours, theirs = (pinned(hub.add(f"some/{name}", FILES)) for name in ("ours", "theirs"))
    opened = partial(open_files, root=tmp_path, scratch=tmp_path / "scratch", delivery=HURRY)
    with opened(ours) as mine:
        config, weights = mine.all(["config.json"])["config.json"], mine.take("weights.bin")
        with opened(ours) as again:
            again.all(["config.json"])
        with opened(theirs) as others:
            others.all(["config.json"])
            others.take("weights.bin")
            others.release("weights.bin")
        assert config.read_bytes() == FILES["config.json"]
        assert weights.read_bytes() == CONTENT


def test_what_a_source_lists_no_more_is_removed_by_its_next_fetch(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    downloads = tmp_path / "scratch" / "downloads"
    stale, foreign = downloads / f"model-{'0' * 16}", downloads / f"model-b-{'0' * 16}"
    for folder in (stale, foreign):
        folder.mkdir(parents=True)
        (folder / ".weights.bin.partial").write_bytes(b"of an older revision")
    source = pinned(hub.add("some/model", FILES))
    with open_files(source, root=tmp_path, scratch=tmp_path / "scratch", delivery=HURRY) as files:
        files.expect(["weights.bin"])
        assert files.take("weights.bin").read_bytes() == CONTENT
        files.release("weights.bin")
    assert not stale.exists()
    assert foreign.exists()


def test_no_more_files_come_at_a_time_than_asked_for(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    names = [f"part{i}.bin" for i in range(6)]
    source = pinned(hub.add("some/model", dict.fromkeys(names, CONTENT)))
    delivery = Delivery(workers=1, patience=HURRY.patience)
    stop, most = threading.Event(), 0

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.001):
            most = max(most, len(list((tmp_path / "scratch").rglob(".*.partial"))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with (
            open_files(
                source, root=tmp_path, scratch=tmp_path / "scratch", delivery=delivery
            ) as files,
            ThreadPoolExecutor(6) as pool,
        ):
            assert len(list(pool.map(files.take, names))) == 6
    finally:
        stop.set()
        watcher.join()
    assert most == 1


def test_a_server_that_ignores_ranges_is_started_over(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    hub.fail("weights.bin", Cut(1_500_000), Whole())
    assert fetched(hub, pinned, tmp_path) == CONTENT


def test_503_is_tried_again(hub: HubServer, pinned: Pinned, tmp_path: Path) -> None:
    hub.fail("weights.bin", Status(503), Status(429))
    assert fetched(hub, pinned, tmp_path) == CONTENT


def test_wrong_bytes_of_the_right_size_are_refused_with_both_digests(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    hub.fail("weights.bin", Other())
    wrong = hashlib.sha256(bytes(b ^ 1 for b in CONTENT)).hexdigest()
    with pytest.raises(SourceError, match=f"has SHA-256 {wrong}, pinned is {DIGEST}"):
        fetched(hub, pinned, tmp_path)
    assert left_behind(tmp_path) == []


def test_a_truncated_body_is_refused_with_both_sizes(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    hub.fail("weights.bin", Shorter(2_999_999))
    with pytest.raises(SourceError, match="has 2999999 bytes, pinned are 3000000"):
        fetched(hub, pinned, tmp_path)
    assert left_behind(tmp_path) == []


def test_a_connection_that_always_breaks_at_the_same_place_ends(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    hub.fail("weights.bin", *[Cut(0)] * 9)
    with pytest.raises(SourceError, match="3 times in a row"):
        fetched(hub, pinned, tmp_path)


def test_missing_repository_revision_and_file_are_told_apart(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    repo = hub.add("some/model", FILES)
    good = pinned(repo)

    def error(**changes: object) -> str:
        source = good.__class__(**{**good.__dict__, **changes})
        with (
            pytest.raises(SourceError) as caught,
            open_files(
                source, root=tmp_path, scratch=tmp_path / "scratch", delivery=HURRY
            ) as files,
        ):
            files.all(source.files)
        return str(caught.value)

    assert "gone/model is not at http://127.0.0.1" in error(repo="gone/model")
    assert "has no revision 'aaaaaa" in error(revision="a" * 40)
    missing = {"other.json": good.files["config.json"]}
    assert "has no file 'other.json' at revision" in error(files=missing)


def test_a_gated_repository_asks_for_a_token_and_gets_it(
    hub: HubServer, pinned: Pinned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("some/model", FILES, gated=True)
    with pytest.raises(SourceError, match=r"is gated .*HF_TOKEN is not set"):
        fetched(hub, pinned, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetched(hub, pinned, tmp_path) == CONTENT
    stored = [r for r in hub.requests if r.path.startswith("/blob")]
    assert stored
    assert all(r.token == "" for r in stored), "the token went to the storage host"


def test_no_message_holds_the_token(
    hub: HubServer, pinned: Pinned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("//", "//user:hf_secret@"))
    hub.fail("weights.bin", Status(403))
    with pytest.raises(SourceError, match="answers 403") as caught:
        fetched(hub, pinned, tmp_path)
    assert "hf_secret" not in str(caught.value)
    assert "user" not in str(caught.value)


def test_a_renamed_repository_is_followed(hub: HubServer, pinned: Pinned, tmp_path: Path) -> None:
    repo = hub.add("new/model", FILES)
    hub.renamed["some/model"] = "new/model"
    hub.repos["some/model"] = repo
    repo.name = "some/model"
    assert fetched(hub, pinned, tmp_path) == CONTENT


def test_a_moved_branch_changes_nothing(hub: HubServer, pinned: Pinned, tmp_path: Path) -> None:
    repo = hub.add("some/model", FILES)
    source = pinned(repo)
    repo.commit({**FILES, "weights.bin": b"newer"})
    with open_files(source, root=tmp_path, scratch=tmp_path, delivery=HURRY) as files:
        assert files.take("weights.bin").read_bytes() == CONTENT


def test_nothing_is_asked_for_when_all_is_in_the_hubs_cache(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    keep = Delivery(keep=True, patience=HURRY.patience)
    assert fetched(hub, pinned, tmp_path, keep) == CONTENT
    assert left_behind(tmp_path) == []
    asked = len(hub.requests)
    assert fetched(hub, pinned, tmp_path) == CONTENT
    assert len(hub.requests) == asked


def test_a_file_in_the_hubs_cache_that_differs_is_refused(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    keep = Delivery(keep=True, patience=HURRY.patience)
    fetched(hub, pinned, tmp_path, keep)
    (kept,) = (tmp_path / "hub-cache").rglob(f"blobs/{DIGEST}")
    kept.write_bytes(bytes(len(CONTENT)))
    with pytest.raises(SourceError, match=f"hub's cache.*pinned is {DIGEST}; remove it"):
        fetched(hub, pinned, tmp_path)


def test_no_server_is_one_line(hub: HubServer, pinned: Pinned, tmp_path: Path) -> None:
    repo = hub.add("some/model", FILES)
    source = pinned(repo)
    hub.__exit__()
    with (
        pytest.raises(SourceError, match="failed with ConnectError, 3 times in a row"),
        open_files(source, root=tmp_path, scratch=tmp_path, delivery=HURRY) as files,
    ):
        files.take("config.json")


def test_who_waits_for_a_file_may_give_up(hub: HubServer, pinned: Pinned, tmp_path: Path) -> None:
    slow = Delivery(patience=HURRY.patience.__class__(first_wait_s=60))  # type: ignore[union-attr]
    hub.fail("weights.bin", Status(503), Status(503))
    repo = hub.add("some/model", FILES)
    with open_files(pinned(repo), root=tmp_path, scratch=tmp_path, delivery=slow) as files:
        assert files.take_within("weights.bin", 0.01) is None


def test_a_kept_download_is_the_file_that_was_hashed(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    """A mirror that has another ETag and other bytes for the second request is not asked again."""
    repo = hub.add("some/model", FILES)
    source = pinned(repo)
    repo.files[repo.head] = Mirror(FILES)
    keep = Delivery(keep=True, patience=HURRY.patience)
    with open_files(source, root=tmp_path, scratch=tmp_path, delivery=keep) as files:
        assert files.take("weights.bin").read_bytes() == CONTENT
        files.unchanged("weights.bin")
    assert len(hub.bytes_of("weights.bin")) == 2  # the hub's answer and its storage's


class Mirror(dict[str, Content]):
    """Files whose bytes and ETag are others whenever they are asked for after the first time."""

    def __init__(self, files: dict[str, Content]) -> None:
        super().__init__(files)
        self.asked = 0

    def get(self, path: str, default: object = None) -> Content:  # type: ignore[override]
        return self[path]

    def __getitem__(self, path: str) -> Content:
        """The hub's answer and its storage's are the first request."""
        self.asked += 1
        content = super().__getitem__(path)
        assert isinstance(content, bytes)
        return content if self.asked <= 2 else content[:-4] + self.asked.to_bytes(4, "big")


def test_a_file_replaced_after_it_was_hashed_is_noticed(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    source = pinned(hub.add("some/model", FILES))
    for keep in (False, True):
        delivery = Delivery(keep=keep, patience=HURRY.patience)
        with open_files(source, root=tmp_path, scratch=tmp_path, delivery=delivery) as files:
            path = files.take("weights.bin").resolve()
            files.unchanged("weights.bin")
            aside = path.with_name("aside")
            path.rename(aside)
            path.write_bytes(bytes(len(CONTENT)))
            path.unlink()
            aside.rename(path)  # moved back: the same inode and bytes
            with pytest.raises(SourceError, match="changed or replaced after it was verified"):
                files.unchanged("weights.bin")


def test_small_files_are_read_as_they_were_hashed(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    """Others can write to a folder of the project and to the hub's cache."""
    source = pinned(hub.add("some/model", FILES))
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "config.json").write_bytes(b'{"model_type": "llama"}')
    files = {"config.json": {"sha256": source.files["config.json"].sha256, "size": 23}}
    local = parse_source("local", {"kind": "model", "path": "local", "files": files})
    keep = Delivery(keep=True, patience=HURRY.patience)
    for chosen in (local, source):
        with open_files(chosen, root=tmp_path, scratch=tmp_path, delivery=keep) as opened:
            path = opened.all(["config.json"])["config.json"]
            for other in {*tmp_path.rglob("local/config.json"), *tmp_path.rglob("blobs/*")}:
                other.write_bytes(b'{"model_type": "other"}')
            assert path.read_bytes() == b'{"model_type": "llama"}'
            assert path.parent.stat().st_mode & 0o077 == 0
        assert not path.exists()
