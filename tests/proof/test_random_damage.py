"""One random bit of a finished build or release flips, 500 times, and each is found."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from remerge.errors import CheckpointError, SignatureError
from remerge.proof.builds import compare_builds
from remerge.proof.check import check_folder
from remerge.proof.lock import _outputs, read_lock
from remerge.proof.signing import sign, verify_signature
from tests.faults.conftest import Built, clone_built  # noqa: F401
from tests.proof.models import flip_bit

SEED = 20_231_126
FLIPS = 500


@pytest.fixture(scope="module")
def build(clone_built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A finished build that shares no file with the cache of another."""
    return Path(shutil.copytree(clone_built.folder, tmp_path_factory.mktemp("d") / "build"))


@pytest.fixture(scope="module")
def release(clone_built: Built) -> Path:  # noqa: F811
    """What `remerge release` makes of it, downloaded: no file is linked with the build."""
    folder = clone_built.folder.parent / "release"
    clone_built.project.run("remerge", "release", str(folder))
    return Path(shutil.copytree(folder, folder.with_name("downloaded")))


def flips(files: list[Path], seed: int) -> list[tuple[Path, int, int]]:
    """(file, byte, bit) of random flips: a file by chance, then a bit of it; all files come up."""
    print(f"seed {seed}")
    draw = random.Random(seed)
    files = [path for path in sorted(files) if path.stat().st_size]
    chosen = [*files, *draw.choices(files, k=max(0, FLIPS - len(files)))][:FLIPS]
    return [(path, draw.randrange(path.stat().st_size), draw.randrange(8)) for path in chosen]


def is_found(folder: Path) -> bool:
    """Whether `remerge check` says that a folder is not what it should be."""
    _outputs.cache_clear()
    try:
        return not check_folder(folder, 1).as_expected
    except CheckpointError:
        return True


@pytest.mark.full
def test_check_finds_any_flipped_bit_of_a_build(build: Path) -> None:
    outs = [Path(out["path"]) for stage in read_lock(build).values() for out in stage["outs"]]
    folders = [build / out for out in outs if (build / out).is_dir()]
    assert not any(map(is_found, folders))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    missed = []
    for path, at, bit in flips(files, SEED):
        folder = next(f for f in folders if path.is_relative_to(f))
        flip_bit(path, at, bit)
        if not is_found(folder):
            missed.append((path.relative_to(build), at, bit))
        flip_bit(path, at, bit)
    assert missed == []
    assert not any(map(is_found, folders))


@pytest.mark.full
def test_verify_against_finds_any_flipped_bit_of_a_build(build: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(build, tmp_path / "other", ignore=shutil.ignore_patterns(".dvc")))
    assert compare_builds(build, other, 1).same
    files = [other / "metrics.json"]
    outs = [Path(out["path"]) for stage in read_lock(build).values() for out in stage["outs"]]
    files += [p for out in outs for p in [other / out, *(other / out).rglob("*")] if p.is_file()]
    missed = []
    for path, at, bit in flips(list(set(files)), SEED + 1)[:60]:
        flip_bit(path, at, bit)
        try:
            found = not compare_builds(build, other, 1).same
        except CheckpointError:
            found = True
        flip_bit(path, at, bit)
        if not found:
            missed.append((path.relative_to(other), at, bit))
    assert missed == []


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_check_and_signature_find_any_flipped_bit_of_a_release(
    release: Path, tmp_path: Path
) -> None:
    key, public = tmp_path / "key.pem", tmp_path / "key.pub"
    make = ("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))
    subprocess.run(make, check=True, capture_output=True)
    show = ("openssl", "ec", "-in", str(key), "-pubout", "-out", str(public))
    subprocess.run(show, check=True, capture_output=True)
    signature = tmp_path / "release.sig"
    sign(release, signature, private_key=key)
    verify_signature(release, signature, public_key=public)
    assert not is_found(release)
    files = [path for path in release.rglob("*") if path.is_file()]
    missed, unsigned = [], []
    for path, at, bit in flips(files, SEED + 2):
        flip_bit(path, at, bit)
        if not is_found(release):
            missed.append((path.relative_to(release), at, bit))
        try:
            verify_signature(release, signature, public_key=public)
            unsigned.append((path.relative_to(release), at, bit))
        except SignatureError:
            pass
        flip_bit(path, at, bit)
    assert (missed, unsigned) == ([], [])
