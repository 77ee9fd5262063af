"""Folders that nobody else can write to: for work that is taken up again, and for compiled code.

>>> own_folder(Path("scratch/0f3a"))
PosixPath('scratch/0f3a')

Decides no byte.
"""

from __future__ import annotations

import grp
import os
import pwd
import secrets
import stat
from contextlib import suppress
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
#: Groups below this number are the system's own.
_FIRST_GROUP = 1000


def own_folder(folder: Path) -> Path:
    """Make a folder for work in progress that nobody else can write to.

    Args:
        folder: Its path. What lies there is used again only if it is ours alone: others could have
            put work of theirs there, to be taken for ours.

    Returns:
        `folder`, or a new one beside it where that belongs to others.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        return folder
    if _is_own(folder):
        return folder
    other = folder.with_name(f"{folder.name}-{secrets.token_hex(8)}")
    other.mkdir(mode=0o700)
    if _is_own(other):
        return other
    other.rmdir()  # a disk without owners or permissions says nothing about either folder
    return folder


def _is_own(folder: Path) -> bool:
    status = folder.lstat()
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return ours and not status.st_mode & _OTHERS


def is_ours_alone(folder: Path) -> bool:
    """Whether nobody but this user and root can put a file into `folder` or exchange it.

    It and all folders above it, links followed, belong to this user or to root, and only they can
    write there; others may write into a folder above it whose sticky bit keeps what is not theirs.
    """
    try:
        folder = folder.resolve(strict=True)
        above = [parent.stat() for parent in folder.parents]
        return _only_we_write(folder.stat()) and all(
            _only_we_write(status, sticky=True) for status in above
        )
    except OSError:
        return False


def _only_we_write(status: os.stat_result, *, sticky: bool = False) -> bool:
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()):
        return False
    if sticky and status.st_mode & stat.S_ISVTX:
        return True
    if status.st_mode & stat.S_IWOTH:
        return False
    return not status.st_mode & stat.S_IWGRP or _has_no_others(status.st_gid)


def _has_no_others(group: int) -> bool:
    """Whether a group is root's, this user's own or one of the system, and has no other member."""
    if group == 0:
        return True
    try:
        entry, user = grp.getgrgid(group), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    known = entry.gr_name == user or group < _FIRST_GROUP
    return known and set(entry.gr_mem) <= {user, "root"}
