"""An aarch64 Python under qemu, from Debian's packages, in a folder of its own.

Nothing is installed: packages are downloaded and unpacked below `FOLDER` (in the user's cache), so
neither root nor a foreign architecture in the system's package database is needed. What is there is
used again.

    python -m tests.proof.emulator SCRIPT ARGUMENTS…    run a script on the emulated machine
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "remerge" / "aarch64"

DEBIAN_PACKAGES = (
    "python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libgcc-s1 libstdc++6 "
    "zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libncursesw6 "
    "libtinfo6 libreadline8 libcrypt1 libgomp1"
).split()
#: Those with compiled code come as aarch64 wheels, the versions are those of the lock.
WHEELS = (
    "numpy numba llvmlite sentencepiece protobuf tqdm gguf pyyaml pydantic pydantic-core "
    "annotated-types typing-extensions typing-inspection"
).split()


class Unavailable(Exception):
    """The emulator cannot be had on this machine; the text says why."""


def emulator(folder: Path = FOLDER) -> list[str]:
    """The command in front of a script's name; Unavailable where packages cannot be had."""
    folder.mkdir(parents=True, exist_ok=True)
    system, packages = folder / "system", folder / "packages"
    stamp = folder / f"complete-{_pins_name()}"
    if not stamp.exists():
        for part in (system, packages):
            shutil.rmtree(part, ignore_errors=True)
        _debian(folder, system)
        _wheels(packages)
        stamp.touch()
    qemu = system / "usr/bin/qemu-aarch64-static"
    return [str(qemu), "-L", str(system), str(system / "usr/bin/python3.11")]


def environment(folder: Path = FOLDER) -> dict[str, str]:
    """The variables that the emulated Python needs: its own library, our wheels and our source."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR") if name in os.environ}
    paths = [folder / "packages", ROOT / "src", ROOT]
    return kept | {
        "PYTHONHOME": str(folder / "system/usr"),
        "PYTHONPATH": ":".join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(folder / "compiled"),
    }


def _pins_name() -> str:
    pins = " ".join(f"{name}=={_locked(name)}" for name in WHEELS)
    return hashlib.sha256(pins.encode()).hexdigest()[:16]


def _locked(name: str) -> str:
    lock = (ROOT / "requirements/run.txt").read_text()
    found = re.search(rf"^{re.escape(name)}==([^ \\]+)", lock, re.MULTILINE)
    if found is None:
        raise Unavailable(f"{name} is not in requirements/run.txt")
    return found[1]


def _debian(folder: Path, system: Path) -> None:
    """Unpack qemu for this machine and Python for the other one."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Unavailable("no apt-get here to download an aarch64 Python and qemu with")
    own = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True)
    for architecture, names in (
        (own.stdout.strip(), ["qemu-user-static"]),
        ("arm64", DEBIAN_PACKAGES),
    ):
        state = folder / "apt" / architecture
        for part in ("lists/partial", "archives/partial"):
            (state / part).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        options = [
            "-qq",
            *(
                "-o",
                f"APT::Architecture={architecture}",
                "-o",
                f"APT::Architectures={architecture}",
            ),
            *("-o", f"Dir::State={state}", "-o", f"Dir::State::status={state / 'status'}"),
            *("-o", f"Dir::Cache={state}", "-o", "APT::Sandbox::User=root"),
            *("-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::Etc::sourcelist={_sources(folder)}"),
        ]
        downloads = folder / "downloads"
        downloads.mkdir(exist_ok=True)
        _run(["apt-get", *options, "update"], "apt-get update failed")
        _run(["apt-get", *options, "download", *names], "apt-get download failed", downloads)
        for package in sorted(downloads.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(system)], f"cannot unpack {package.name}")
        shutil.rmtree(downloads)
        shutil.rmtree(state)


def _sources(folder: Path) -> Path:
    """The machine's own Debian sources, without those of other vendors."""
    target = folder / "apt" / "debian.list"
    etc = Path("/etc/apt")
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    lines = []
    for file in (f for f in files if f.is_file()):
        text = file.read_text()
        if file.suffix == ".sources":
            for stanza in re.split(r"\n\s*\n", text):
                entry = dict(
                    re.findall(r"^(URIs|Suites|Components|Signed-By): *(.+)$", stanza, re.MULTILINE)
                )
                for uri in entry.get("URIs", "").split():
                    for suite in entry.get("Suites", "").split():
                        signed = entry.get("Signed-By", "")
                        by = f"[signed-by={signed}] " if signed.startswith("/") else ""
                        lines.append(f"deb {by}{uri} {suite} {entry.get('Components', 'main')}")
        else:
            lines += [line for line in text.splitlines() if line.startswith("deb ")]
    debian = [line for line in lines if re.search(r"/debian(-security)?/? ", line)]
    if not debian:
        raise Unavailable("no Debian package source is configured here")
    target.write_text("\n".join(debian) + "\n")
    return target


def _wheels(packages: Path) -> None:
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 27, 28)]
    platforms += ["--platform=manylinux2014_aarch64", "--platform=any"]
    pins = [f"{name}=={_locked(name)}" for name in WHEELS]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]
    command += ["--python-version=3.11", "--implementation=cp", "--no-compile", *platforms]
    _run([*command, f"--target={packages}", *pins], "aarch64 wheels cannot be had")


def _run(command: Sequence[str], what: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"{what}: {last}")


if __name__ == "__main__":
    sys.exit(subprocess.run([*emulator(), *sys.argv[1:]], env=environment()).returncode)
