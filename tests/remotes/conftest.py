"""One pipeline, built once; for every test a store and people who share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.remotes.servers import SSHD, Store, folder_store, s3_store, ssh_store
from tests.remotes.team import Clone, clone_of, copy_of, new_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The built project that every test's builder begins with. Nobody changes it."""
    folder = tmp_path_factory.mktemp("team")
    clone = new_project(folder / "project", folder / "home")
    clone.dvc("repro", "--quiet")
    clone.git("add", "--all")
    clone.git("commit", "--quiet", "--message=built")
    return clone


@pytest.fixture
def builder(finished: Clone, tmp_path: Path) -> Clone:
    """Somebody who has built it."""
    return copy_of(finished, tmp_path / "builder")


@pytest.fixture
def join(builder: Clone, tmp_path: Path) -> Callable[[str], Clone]:
    """A new member of the team: what the builder has committed, and an empty cache."""

    def joined(name: str) -> Clone:
        return clone_of(builder, tmp_path / name / "project", tmp_path / name / "home")

    return joined


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A folder as remote, where nothing depends on the kind."""
    with folder_store(tmp_path / "store") as folder:
        yield folder


@pytest.fixture(params=["folder", "ssh", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Every kind of remote in turn."""
    if request.param == "ssh" and not Path(SSHD).exists():
        pytest.skip("no sshd here: apt-get install openssh-server")
    kinds = {"folder": folder_store, "ssh": ssh_store, "s3": s3_store}
    with kinds[request.param](tmp_path / "store") as made:
        yield made
