"""Long work shows where it stands, on a terminal and in a log."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pytest

from remerge.progress import FIRST_S, INTERVAL_S, Compiling, announce, track

LINE = r"fetch base: \d+ %, \d\.\d\d GB of 4\.00 GB, [\d.]+ [GM]B a second, [\d.]+ (s|min|h) left"


def test_without_a_terminal_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with track(4 * 10**9, "fetch base", every_s=0.05) as bar:
        for _ in range(4):
            time.sleep(0.06)
            bar.advance(10**9)
            bar.advance(0)  # too early for another line
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 5
    assert all(re.fullmatch(LINE, line) for line in lines), lines
    assert lines[-1].startswith("fetch base: 100 %, 4.00 GB")


def test_short_work_leaves_no_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with track(10, "id model", unit="tensor") as bar:
        bar.advance(10)
    assert capsys.readouterr() == ("", "")


def test_units_other_than_bytes_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with track(40, "headers", unit="file", every_s=0) as bar:
        bar.advance(-1)
        bar.advance(11)
    first, last = capsys.readouterr().err.splitlines()
    assert first.endswith("an unknown time left")
    assert re.match(r"headers: 25 %, 10 of 40, \d+ a second", last)


def test_on_a_terminal_there_is_a_bar() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    program = "from remerge.progress import track\nwith track(4, 'ties') as bar: bar.advance(4)"
    subprocess.run([sys.executable, "-c", program], stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "ties: 100%|" in shown


def test_slow_work_without_a_measure_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    with announce("loading", after_s=0.05):
        time.sleep(0.3)
    with announce("loading", after_s=5):
        pass
    assert capsys.readouterr().err == "loading …\n"


def test_compiling_is_said_once_and_only_if_slow(capsys: pytest.CaptureFixture[str]) -> None:
    quick = Compiling(after_s=5)
    quick.begin()
    quick.end()
    slow = Compiling(after_s=0.05)
    for _ in range(3):
        slow.begin()
        time.sleep(0.15)
        slow.end()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("compiling kernels for this machine, once")


def test_first_line_in_a_log_comes_within_two_seconds() -> None:
    assert FIRST_S <= 2.0 < INTERVAL_S
