"""What one has built, another has without building: by a folder, SSH and S3."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.remotes.servers import FolderStore, Store
from tests.remotes.team import OUTPUTS, ROOT, Clone

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
Join = Callable[[str], Clone]
TEAM = (ROOT / "docs/team.md").read_text()


def push(clone: Clone, store: Store, *targets: str) -> None:
    clone.use(store.settings)
    clone.dvc("push", "--quiet", *targets)


def object_of(clone: Clone, path: str) -> str:
    """The remote's name of an output's directory object, or of a file in it."""
    folder, _, file = path.partition("::")
    lock = yaml.safe_load((clone.root / "dvc.lock").read_text())["stages"]
    outs = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
    md5 = outs[folder]
    if file:
        listing = clone.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        entries = yaml.safe_load(listing.read_text())
        md5 = next(entry["md5"] for entry in entries if entry["relpath"] == file)
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def shard(clone: Clone, folder: str = "merged/final") -> str:
    return min(path.name for path in (clone.root / folder).glob("*.safetensors"))


def built(clone: Clone) -> dict[str, bytes]:
    others = [*clone.root.glob("id-*.json"), clone.root / "report.txt"]
    return clone.digests() | {path.name: path.read_bytes() for path in others}


def name_in(store: Store, clone: Clone, path: str) -> str:
    wanted = object_of(clone, path)
    return next(name for name in store.names() if name.endswith(wanted))


def test_what_is_pushed_is_pulled_without_running_a_stage(
    builder: Clone, join: Join, any_store: Store
) -> None:
    push(builder, any_store)
    other = join("other")
    other.use(any_store.settings)
    other.dvc("pull", "--quiet")
    assert other.digests("models", *OUTPUTS) == builder.digests("models", *OUTPUTS)
    other.dvc("repro")
    assert other.runs() == []
    assert other.dvc("status").strip() == "Data and pipelines are up to date."


@pytest.mark.parametrize("how", ["one bit", "cut short"])
def test_a_damaged_object_ends_the_pull_and_places_nothing(
    builder: Clone, join: Join, any_store: Store, how: str
) -> None:
    push(builder, any_store)
    name = name_in(any_store, builder, f"merged/final::{shard(builder)}")
    whole = any_store.read(name)
    damaged = whole[:-1] if how == "cut short" else whole[:-1] + bytes([whole[-1] ^ 1])
    any_store.write(name, damaged)
    other = join("other")
    other.use(any_store.settings)
    assert other.attempt("dvc", "pull", "--quiet", "gradient").returncode != 0
    assert not (other.root / "merged/final" / shard(builder)).exists()
    # The repair that the documentation gives: remove it there, send it again, pull.
    any_store.remove(name)
    any_store.remove(name_in(any_store, builder, "merged/final"))
    builder.dvc("push", "--quiet", "gradient")
    other.dvc("pull", "--quiet", "gradient")
    assert other.digests("merged/final") == builder.digests("merged/final")


def test_models_travel_without_their_sources(builder: Clone, join: Join, any_store: Store) -> None:
    recipe = (ROOT / "Makefile").read_text()
    (line,) = re.findall(r"^push-models:.*\n\t(?:@)?dvc push (.*)$", recipe, re.MULTILINE)
    targets = line.split()
    push(builder, any_store, *targets)
    other = join("other")
    other.use(any_store.settings)
    other.dvc("pull", "--quiet", *targets)
    assert other.digests() == builder.digests()
    assert (other.root / "report.txt").read_bytes() == (builder.root / "report.txt").read_bytes()
    assert not (other.root / "models").exists()
    other.dvc("repro", "--pull", "--allow-missing")
    assert other.runs() == []


def test_only_what_is_missing_is_built(builder: Clone, join: Join, any_store: Store) -> None:
    push(builder, any_store)
    other = join("other")
    other.use(any_store.settings)
    changed = {"ties": {"density": 0.25}}
    (other.root / "params.yaml").write_text(yaml.safe_dump(changed))
    other.dvc("repro", "--pull", "--allow-missing")
    assert sorted(other.runs()) == ["gradient", "id", "id", "ties", "ties"]
    for clone in (builder, other):
        (clone.root / "params.yaml").write_text(yaml.safe_dump(changed))
    builder.dvc("repro", "--quiet")
    assert other.digests() == builder.digests()


def test_what_nobody_pushed_is_built_from_what_was(
    builder: Clone, join: Join, store: FolderStore
) -> None:
    push(builder, store, "ties_p1", "ties_p2")
    other = join("other")
    other.use(store.settings)
    # Not with --allow-missing, which takes a missing output for finished.
    other.dvc("pull", "--quiet", "ties_p1", "ties_p2")
    other.dvc("repro", "--single-item", "gradient")
    assert other.runs() == ["gradient"]
    assert other.digests("merged/final") == builder.digests("merged/final")


def push_an_experiment(builder: Clone, store: Store, name: str, bare: Path) -> dict[str, bytes]:
    """Share the build and the experiment `dense` by git at `bare`; the experiment's digests."""
    subprocess.run(["git", "init", "--quiet", "--bare", str(bare)], check=True)
    push(builder, store)
    builder.git("remote", "add", name, str(bare))
    builder.git("commit", "--quiet", "--all", "--message=a remote")
    builder.git("push", "--quiet", name, "main")
    builder.dvc("exp", "run", "--quiet", "--name=dense", "--set-param=ties.density=0.9")
    tried = builder.digests()
    builder.dvc("exp", "push", "--quiet", name, "dense")
    return tried


def test_experiments_travel_through_git_and_the_remote(
    builder: Clone, join: Join, any_store: Store, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.git"
    tried = push_an_experiment(builder, any_store, "team", bare)
    other = join("other")
    other.use(any_store.settings)
    other.git("checkout", "--quiet", "--", ".")
    other.git("remote", "add", "team", str(bare))
    other.dvc("exp", "pull", "--quiet", "team", "dense")
    other.dvc("exp", "apply", "dense")
    other.dvc("repro", "--pull", "--allow-missing")
    assert other.digests() == tried
    assert other.runs() == []


def test_a_changed_density_sends_only_what_changed(builder: Clone, any_store: Store) -> None:
    push(builder, any_store)
    before = any_store.stamps()
    old = set(built(builder).values())
    params = builder.root / "params.yaml"
    params.write_text(yaml.safe_dump({"ties": {"density": 0.51}}))
    builder.dvc("repro", "--quiet")
    builder.dvc("push", "--quiet")
    after = any_store.stamps()
    assert {name: after[name] for name in before} == before  # nothing is sent twice
    changed = set(built(builder).values()) - old
    new = after.keys() - before.keys()
    sent = {any_store.read(name) for name in new if not name.endswith(".dir")}
    assert sent == changed
    assert len(changed) < len(built(builder))


def test_collecting_in_the_remote_spares_the_experiments_of_others(
    builder: Clone, join: Join, store: FolderStore, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.git"
    tried = push_an_experiment(builder, store, "origin", bare)
    # Somebody who has never seen the experiment collects, with the commands of docs/team.md.
    other = join("other")
    other.use(store.settings)
    other.git("remote", "set-url", "origin", str(bare))
    (line,) = re.findall(r"^    (dvc gc .*--cloud.*?)(?: *#.*)?$", TEAM, re.MULTILINE)
    (fetch,) = re.findall(r"^    (git fetch .*refs/exps.*?)(?: *#.*)?$", TEAM, re.MULTILINE)
    assert line.split()[:2] == ["dvc", "gc"]
    other.do("sh", "-c", fetch)
    (store.folder / "files/md5/00").mkdir(exist_ok=True)
    useless = store.folder / "files/md5/00/0123456789abcdef0123456789abcd"
    useless.write_text("of nobody")
    other.dvc(*line.split()[1:], "--force")
    assert not useless.exists()
    third = join("third")
    third.use(store.settings)
    third.git("remote", "set-url", "origin", str(bare))
    third.git("checkout", "--quiet", "--", ".")
    third.dvc("exp", "pull", "--quiet", "origin", "dense")
    third.dvc("exp", "apply", "dense")
    assert third.digests() == tried


def test_an_object_lost_under_its_folder_is_sent_again_after_the_documented_repair(
    builder: Clone, join: Join, store: FolderStore
) -> None:
    push(builder, store)
    lost = name_in(store, builder, f"merged/final::{shard(builder)}")
    folder = name_in(store, builder, "merged/final")
    store.remove(lost)
    other = join("other")
    other.use(store.settings)
    failed = other.attempt("dvc", "pull", "gradient")
    assert failed.returncode != 0
    assert "Traceback" not in failed.stdout + failed.stderr
    builder.dvc("push", "--quiet")
    assert lost not in store.names()  # DVC trusts the folder's own object
    store.remove(folder)
    builder.dvc("push", "--quiet")
    assert {lost, folder} <= store.names()
    other.dvc("pull", "--quiet", "gradient")
    assert other.digests("merged/final") == builder.digests("merged/final")


def test_two_can_push_at_once(builder: Clone, join: Join, store: FolderStore) -> None:
    other = join("other")
    other.dvc("repro", "--quiet")
    for clone in (builder, other):
        clone.use(store.settings)
    pushes = [clone.start("dvc", "push") for clone in (builder, other)]
    for process in pushes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    third = join("third")
    third.use(store.settings)
    third.dvc("pull", "--quiet")
    assert third.digests("models", *OUTPUTS) == builder.digests("models", *OUTPUTS)
