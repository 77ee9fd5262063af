"""What stands in the place of a file and is none."""

from __future__ import annotations

import os
from pathlib import Path

from tests.faults.samples import sample


@sample("place")
def fifo(path: Path) -> None:
    """Is a FIFO, at which a reader waits for ever."""
    os.mkfifo(path)


@sample("place")
def endless_device(path: Path) -> None:
    """Links to a device that never ends."""
    path.symlink_to("/dev/zero")


@sample("place")
def dangling_link(path: Path) -> None:
    """Links to nothing."""
    path.symlink_to("nowhere-at-all")


@sample("place")
def circle(path: Path) -> None:
    """Links to itself."""
    path.symlink_to(path.name)


@sample("place")
def folder(path: Path) -> None:
    """Is a folder."""
    path.mkdir()


@sample("place")
def link_out(path: Path) -> None:
    """Links to a file outside of the source's folder, which somebody else can read thereby."""
    path.symlink_to("/etc/hostname")
