"""Servers on loopback that the tests start: sshd, and S3 by moto."""

from __future__ import annotations

import getpass
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SSHD = "/usr/sbin/sshd"


class Store(Protocol):
    """A remote: what DVC must be told of it, and its objects seen from behind DVC's back."""

    settings: dict[str, str]

    def names(self) -> set[str]: ...
    def stamps(self) -> dict[str, str]: ...
    def read(self, name: str) -> bytes: ...
    def write(self, name: str, data: bytes) -> None: ...
    def remove(self, name: str) -> None: ...


@dataclass(frozen=True)
class FolderStore:
    """Objects that lie in a folder of this machine, reached in whatever way."""

    settings: dict[str, str]
    folder: Path

    def names(self) -> set[str]:
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}

    def stamps(self) -> dict[str, str]:
        """When each object was written last."""
        return {name: str((self.folder / name).stat().st_mtime_ns) for name in self.names()}

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.chmod(0o644)
        path.write_bytes(data)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()


@dataclass(frozen=True)
class BucketStore:
    """Objects of a bucket, by plain HTTP."""

    settings: dict[str, str]
    endpoint: str
    bucket: str

    def _request(self, method: str, name: str = "", data: bytes | None = None) -> bytes:
        url = f"{self.endpoint}/{self.bucket}/{name}"
        # moto asks who it is, as S3 does, but does not check the signature.
        who = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"
        headers = {"Authorization": f"{who}, SignedHeaders=host, Signature=0"}
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def create(self) -> None:
        self._request("PUT", data=b"")

    def names(self) -> set[str]:
        return set(self.stamps())

    def stamps(self) -> dict[str, str]:
        """When each object was written last, to the second."""
        listing = self._request("GET").decode()
        entry = r"<Key>(.*?)</Key>\s*<LastModified>(.*?)</LastModified>"
        return dict(re.findall(entry, listing, re.DOTALL))

    def read(self, name: str) -> bytes:
        return self._request("GET", name)

    def write(self, name: str, data: bytes) -> None:
        self._request("PUT", name, data)

    def remove(self, name: str) -> None:
        self._request("DELETE", name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _await(port: int, process: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"a server did not start: {log.read_text()[-500:]}")


@contextmanager
def _serving(command: list[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        _await(port, process, log)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def ssh_store(folder: Path) -> Iterator[FolderStore]:
    """A real sshd that accepts one key and serves SFTP."""
    folder.mkdir(parents=True)
    for name in ("host", "user"):
        key = str(folder / name)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    )
    if getpass.getuser() == "root":
        Path("/run/sshd").mkdir(exist_ok=True)
    objects = folder / "objects"
    objects.mkdir()
    settings = {
        "url": f"ssh://{getpass.getuser()}@127.0.0.1:{port}{objects}",
        "keyfile": str(folder / "user"),
        "allow_agent": "false",
    }
    command = [SSHD, "-D", "-e", "-f", str(folder / "config")]
    with _serving(command, port, folder / "log"):
        yield FolderStore(settings, objects)


@contextmanager
def s3_store(folder: Path) -> Iterator[BucketStore]:
    """An S3 server by moto."""
    folder.mkdir(parents=True)
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    settings = {"url": "s3://models/team", "endpointurl": endpoint, "region": "us-east-1"}
    program = Path(sys.executable).with_name("moto_server")
    command = [str(program), "-H", "127.0.0.1", "-p", str(port)]
    with _serving(command, port, folder / "log"):
        store = BucketStore(settings, endpoint, "models")
        store.create()
        yield store


@contextmanager
def folder_store(folder: Path) -> Iterator[FolderStore]:
    """A folder, as on a disk that several machines mount."""
    folder.mkdir(parents=True)
    yield FolderStore({"url": str(folder)}, folder)
