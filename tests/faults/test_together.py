"""Rows 90 to 93: two processes at one place, and places that others can write to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from remerge.errors import SourceError, ToolError
from remerge.files import create, temporary_path, write_text
from remerge.locks import sole_writer
from remerge.ownership import own_folder
from remerge.proof.check import check_folder
from remerge.quantize import quantize
from remerge.shards.artefact import resume_key
from remerge.shards.units import build_shards
from remerge.sources.files import open_files
from tests.faults.made import contents, family, left_behind, merge, ties_plan
from tests.faults.rows import fault
from tests.quantize.conftest import save_llama
from tests.sources.conftest import HURRY, Pinned, hub, pinned  # noqa: F401
from tests.sources.hub_server import HubServer

ROOT = Path(__file__).resolve().parents[2]


def ties(folder: Path, out: str, *donors: str, slow: bool = False) -> subprocess.Popen[str]:
    """`remerge ties` as a process of its own, on many small shards."""
    program = (
        "import sys, time\n"
        "import remerge.shards.units as units\n"
        "finish = units._ShardFile.finish\n"
        f"units._ShardFile.finish = lambda self: (time.sleep({0.2 if slow else 0}), finish(self))\n"
        "from remerge.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-P", "-c", program, "ties", "base", *donors, "--out", out,
               "--shard-size", "20KB"]  # fmt: skip
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@fault(
    90,
    "two equal or two different merges into one folder at once",
    sees="from one of them `error: ties: another process is writing OUT; wait until it ends, or "
    "choose another place`",
    then="of the one that lost: `error: OUT exists; remove it or choose another place`",
)
@pytest.mark.parametrize("second", ["donor1", "donor2"])
def test_of_two_merges_into_one_folder_one_wins(tmp_path: Path, second: str) -> None:
    family(tmp_path)
    both = [
        ties(tmp_path, "out", "donor1", slow=True),
        ties(tmp_path, "out", second, slow=True),
    ]
    answers = [process.communicate(timeout=120) for process in both]
    statuses = [process.returncode for process in both]
    assert sorted(statuses) == [0, 1], answers
    lost, won = statuses.index(1), statuses.index(0)
    line = answers[lost][1].splitlines()[-1]
    assert line.startswith("error: ties: another process is writing ") or "out exists" in line
    assert not check_folder(tmp_path / "out").problems
    alone = tmp_path / "alone"
    assert ties(tmp_path, str(alone), ["donor1", second][won]).wait(120) == 0
    assert contents(tmp_path / "out") == contents(alone)
    assert not [p for p in tmp_path.rglob(".*") if p.suffix in (".lock", ".partial")]


@fault(
    91,
    "the same merge into two folders at once, by way of one scratch folder",
    sees="`ties: waiting for another process that works in scratch/…`, then both folders, equal",
    then="the same",
)
def test_equal_work_for_two_folders_is_done_one_after_the_other(tmp_path: Path) -> None:
    family(tmp_path)
    both = [ties(tmp_path, out, "donor1", "donor2", slow=True) for out in ("a", "b")]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not check_folder(tmp_path / "b").problems
    assert sum("waiting for another process that works in" in text for text in errors) <= 1


@fault(
    96,
    "two calls of `quantize` of the library for one folder, in processes or threads",
    sees="from one of them `error: gguf_f16: another process is writing OUT; …`",
    then="it writes the format anew",
)
def test_of_two_formats_into_one_folder_one_wins(tmp_path: Path) -> None:
    model = save_llama(tmp_path / "model")
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "import remerge.quantize.gguf.write as writer\n"
        "write = writer.write\n"
        "writer.write = lambda request: (time.sleep(2), write(request))[1]\n"
        "from remerge.errors import ToolError\n"
        "from remerge.quantize import quantize\n"
        "try:\n"
        "    quantize(Path('model'), Path('out'), 'gguf_f16', threads=1)\n"
        "except ToolError as error:\n"
        "    sys.exit(f'error: {error}')\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-P", "-c", program], cwd=tmp_path, text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
                         stderr=subprocess.PIPE)
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) in ([0, 1], [0, 0]), said
    lost = [text for process, text in zip(both, said, strict=True) if process.returncode]
    assert all(text.startswith("error: gguf_f16: another process is writing ") for text in lost)
    quantize(model, tmp_path / "alone", "gguf_f16", threads=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    with sole_writer(tmp_path / "out", "this thread"):
        quantize(model, tmp_path / "out", "gguf_f16", threads=1)
        failed: list[ToolError] = []

        def other() -> None:
            try:
                quantize(model, tmp_path / "out", "gguf_f16", threads=1)
            except ToolError as error:
                failed.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert "another process is writing" in str(failed)
    assert not (tmp_path / ".out.lock").exists()


def test_a_killed_merge_leaves_its_place_free(tmp_path: Path) -> None:
    family(tmp_path)
    killed = ties(tmp_path, "out", "donor1", slow=True)
    while not list(tmp_path.glob(".scratch/*/*.safetensors")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (tmp_path / ".out.lock").exists()
    again = ties(tmp_path, "out", "donor1")
    assert again.wait(120) == 0
    assert not check_folder(tmp_path / "out").problems
    assert not list(left_behind(tmp_path)) and not (tmp_path / ".out.lock").exists()


@fault(
    92,
    "another user of the machine puts finished shards, links or files under the names that a merge "
    "or a download will use",
    sees="nothing: work goes into a folder of its own; `error: PATH: is a link, in the place of a "
    "download; remove it`",
    then="the same",
)
def test_work_of_others_is_not_taken_for_ours(
    tmp_path: Path,
    hub: HubServer,  # noqa: F811
    pinned: Pinned,  # noqa: F811
) -> None:
    base, donors = family(tmp_path)
    expected = contents_of_merge(tmp_path, base, donors)
    plan = ties_plan(base, donors)
    forged = tmp_path / "scratch" / resume_key(plan)
    # The shards of another merge, with records that agree with them.
    other = ties_plan(base, donors, density=0.9)
    build_shards(other, forged, 1)
    forged.chmod(0o777)  # everybody may write
    if os.geteuid() == 0:
        forged.chmod(0o700)
        os.chown(forged, 12345, 12345)
    merge(base, donors, tmp_path / "out")
    assert contents(tmp_path / "out") == expected

    victim = tmp_path / "victim"
    victim.write_text("precious")
    source = pinned(hub.add("some/model", {"w.bin": b"w" * 20_000}))
    place = tmp_path / "scratch" / "downloads" / f"model-{source.files['w.bin'].sha256[:16]}"
    place.mkdir(parents=True)
    for lay in (os.symlink, os.link):
        lay(victim, place / ".w.bin.partial")
        with (
            open_files(
                source, root=tmp_path, scratch=tmp_path / "scratch", delivery=HURRY
            ) as files,
            pytest.raises(SourceError, match="in the place of a download; remove it"),
        ):
            files.take("w.bin")
        (place / ".w.bin.partial").unlink()
    assert victim.read_text() == "precious"


def contents_of_merge(folder: Path, base: Path, donors: list[Path]) -> dict[str, bytes]:
    merge(base, donors, folder / "expected")
    return contents(folder / "expected")


def test_temporary_names_are_unforeseen_and_new(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    names = {temporary_path(path) for _ in range(1000)}
    assert len(names) == 1000
    assert not any(str(os.getpid()) == name.name.split(".")[3] for name in names)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        create(link)
    write_text(path, "a")
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_processes_of_two_containers_use_other_names(tmp_path: Path) -> None:
    """Equal process ids, as in two containers, do not lead to one file."""
    program = (
        "import os; os.getpid = lambda: 7\n"
        "from pathlib import Path; from remerge.files import temporary_path\n"
        "print(temporary_path(Path('x')))"
    )
    run = [
        subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True,
                       env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, check=True).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert run[0] != run[1]


def test_a_place_is_held_until_its_writer_ends(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "out"

    def hold(what: str) -> None:
        with sole_writer(place, what):
            pass

    with sole_writer(place, "first"), ThreadPoolExecutor(1) as another:
        hold("the same work")
        with pytest.raises(ToolError, match=r"second: another process is writing .*deep/out; wait"):
            another.submit(hold, "second").result()
        assert (tmp_path / "deep").exists()
    assert not (tmp_path / "deep").exists()
    with sole_writer(place, "third"):
        pass


def test_a_folder_for_work_is_ours_alone(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "work")
    assert folder == tmp_path / "work" and folder.stat().st_mode & 0o777 == 0o700
    assert own_folder(folder) == folder
    folder.chmod(0o770)
    other = own_folder(folder)
    assert other != folder and other.stat().st_mode & 0o777 == 0o700
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert own_folder(tmp_path / "link") != tmp_path / "link"
