"""Killed, full, edited behind DVC's back: nothing is lost, and the documented repair repairs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from remerge.proof.check import check_folder
from remerge.proof.repair import repair
from tests.proof.models import flip_bit
from tests.remotes.servers import FolderStore
from tests.remotes.team import OUTPUTS, Clone
from tests.remotes.test_sharing import push, shard

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
Join = Callable[[str], Clone]


def test_a_killed_push_is_finished_by_the_next(
    builder: Clone, join: Join, store: FolderStore
) -> None:
    builder.use(store.settings)
    process = builder.start("dvc", "push")
    while process.poll() is None and not store.names():
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    builder.dvc("push", "--quiet")
    other = join("other")
    other.use(store.settings)
    other.dvc("pull", "--quiet")
    assert other.digests("models", *OUTPUTS) == builder.digests("models", *OUTPUTS)


@pytest.mark.parametrize("remedy", ["remote", "stage"])
def test_an_output_edited_in_place_is_found_and_repaired(
    builder: Clone, store: FolderStore, remedy: str
) -> None:
    if remedy == "remote":
        push(builder, store)
    right = builder.digests("merged/final")
    damaged = builder.root / "merged/final" / shard(builder)
    assert damaged.stat().st_nlink > 1
    before = damaged.stat()
    damaged.chmod(0o644)
    flip_bit(damaged, before.st_size - 1)  # root, or a failing disk, needs no permission
    damaged.chmod(0o444)
    os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert builder.dvc("status").strip() == "Data and pipelines are up to date."
    check = check_folder(builder.root / "merged/final")
    assert check.damaged == (damaged.name,)
    repair(builder.root / "merged/final")
    builder.do("sh", "-c", "dvc pull merged/final || dvc repro")
    assert builder.digests("merged/final") == right
    assert check_folder(builder.root / "merged/final").problems == ()
    assert (remedy == "remote") == (builder.runs() == [])


#: In a file system of its own: fails for want of room, loses in the remote what has arrived, gets
#: room, and goes on.
FULL_DISK = """
mount -t tmpfs -o size=200k none "$CACHE" || exit 90
dvc pull && exit 91
cd "$CACHE" && find files -type f ! -name '*.tmp' ! -name '*.dir' > "$ARRIVED"; cd - > /dev/null
while read name; do rm "$STORE/$name"; done < "$ARRIVED"
mount -o remount,size=64m "$CACHE" || exit 92
dvc pull --quiet
"""


def test_a_full_disk_ends_the_pull_and_the_next_goes_on(
    builder: Clone, join: Join, store: FolderStore
) -> None:
    push(builder, store)
    other = join("other")
    other.use(store.settings)
    cache, arrived = other.root / ".dvc/cache", other.root / "arrived"
    cache.mkdir(parents=True, exist_ok=True)
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = ["sh", "-c", "mount -t tmpfs none /mnt"]
    if subprocess.run([*alone, *mount], capture_output=True).returncode:
        pytest.skip("no mounts of our own here")
    places = [f"CACHE={cache}", f"ARRIVED={arrived}", f"STORE={store.folder}"]
    done = other.attempt(*alone, "env", *places, "sh", "-c", FULL_DISK)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Traceback" not in said
    assert "No space left on device" in said
    assert arrived.read_text()  # something had, or there was nothing to go on with
    assert other.digests("models", *OUTPUTS) == builder.digests("models", *OUTPUTS)
