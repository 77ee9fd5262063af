"""Real Ray nodes on loopback, each a process tree that can be killed as a machine dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

RAY = Path(sys.executable).with_name("ray")
HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def session_processes(session: int) -> list[int]:
    """Process ids of a session: a node's raylet, its agents and its workers."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[3]) == session:
                found.append(int(stat.parent.name))
    return found


class Node:
    """A started node; `kill` is what a power cut does to it."""

    def __init__(
        self, arguments: list[str], environment: dict[str, str], log: Path, prefix: tuple[str, ...]
    ) -> None:
        command = [*prefix, str(RAY), "start", "--block", "--disable-usage-stats", *arguments]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def processes(self) -> list[int]:
        return session_processes(self.process.pid)

    def workers(self) -> list[int]:
        """Processes of the node that run units."""
        found = []
        for pid in self.processes():
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                if line.startswith(b"ray::run_unit_on_node"):
                    found.append(pid)
        return found

    def kill(self) -> None:
        """SIGKILL to everything that runs on the node."""
        for _ in range(3):
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Cluster:
    """A head and further nodes of one core each, at addresses 127.0.0.1, 127.0.0.2, …"""

    def __init__(self, cpus: int = 1, environment: dict[str, str] | None = None) -> None:
        # A short path: sockets of Ray lie under it, and a socket's path has 107 bytes.
        self.folder = tempfile.TemporaryDirectory(
            prefix="rr", dir="/tmp", ignore_cleanup_errors=True
        )
        self.port = free_port()
        self.nodes: list[Node] = []
        self.address = f"{HOST}:{self.port}"
        self.environment = environment or {}
        self._start(cpus, ["--head", f"--port={self.port}", "--include-dashboard=false"], {})

    def add(
        self,
        cpus: int = 1,
        environment: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> Node:
        """One more node, run by `prefix`; waits until the cluster knows it."""
        return self._start(cpus, [f"--address={self.address}"], environment or {}, prefix)

    def _start(
        self,
        cpus: int,
        arguments: list[str],
        environment: dict[str, str],
        prefix: tuple[str, ...] = (),
    ) -> Node:
        number = len(self.nodes) + 1
        log = Path(self.folder.name) / f"node{number}.log"
        node = Node(
            [
                *arguments,
                f"--node-ip-address=127.0.0.{number}",
                f"--num-cpus={cpus}",
                "--memory=2000000000",
                "--object-store-memory=80000000",
                *([f"--temp-dir={self.folder.name}/ray"] if "--head" in arguments else []),
            ],
            self.environment | environment,
            log,
            prefix,
        )
        self.nodes.append(node)
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if time.monotonic() > deadline or node.process.poll() is not None:
                self.stop()
                raise AssertionError(log.read_text(errors="replace")[-2000:])
            time.sleep(0.1)
        return node

    def stop(self) -> None:
        """End every node."""
        for node in reversed(self.nodes):
            node.kill()
        self.folder.cleanup()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
