"""Run a command and see how long it takes and how much memory its processes hold."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """Seconds of wall and processor time; peaks in bytes of anonymous and of mapped memory."""

    wall: float
    processor: float
    anonymous: int
    mapped: int


def _descendants(root: int) -> list[int]:
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                queue += map(int, tasks.read_text().split())
            except OSError:
                continue
    return found


def _resident(pid: int) -> tuple[int, int]:
    """RssAnon and RssFile + RssShmem of one process, in bytes."""
    amounts = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, rest = line.partition(":")
        if key.startswith("Rss"):
            amounts[key] = int(rest.split()[0]) * 1024
    return amounts.get("RssAnon", 0), amounts.get("RssFile", 0) + amounts.get("RssShmem", 0)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run `command` to its end; its output is shown only when it fails."""
    before = os.times()
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
    )
    peak = [0, 0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            sums = [0, 0]
            for pid in _descendants(process.pid):
                try:
                    for i, amount in enumerate(_resident(pid)):
                        sums[i] += amount
                except OSError:
                    continue
            peak[:] = [max(a, b) for a, b in zip(peak, sums, strict=True)]

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    wall = time.perf_counter() - start
    done.set()
    watcher.join()
    after = os.times()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{output.decode(errors='replace')}")
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    return Cost(wall, used, *peak)
