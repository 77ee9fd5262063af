"""Write the lock files of this folder from pyproject.toml; run by `make lock`.

    dev.txt    every dependency with every extra, resolved together
    run.txt    what `make repro` needs, the extra `pipeline`: a part of dev.txt, same versions
    torch.txt  torch as PyPI has it, with the CUDA libraries its Linux builds need
    pip.txt    what installs the others: pip and the backend that builds source packages

torch stands apart because its builds differ by index: torch-cpu.txt, kept by hand, locks those
that need no CUDA libraries, and install.sh prefers them.

A line holds the digests of all files of its version, for every platform and Python, so that
`pip install --require-hashes` accepts whichever wheel fits the machine. Versions stay as they
are unless pyproject.toml moves them; delete a file to resolve it afresh.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
COMMENT = re.compile(r"^ *#.*\n", re.MULTILINE)
ENTRY = re.compile(r"^[A-Za-z0-9].*(?:\n    .*)*\n", re.MULTILINE)
INSTALLERS = "pip==26.3\nsetuptools==84.2.1\n"


def compile_lock(name: str, source: str, *options: str, stdin: str | None = None) -> None:
    """Resolve `source` with uv for all platforms into the lock file `name`."""
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", source]
    command += ["--universal", "--python-version", "3.11", "--fork-strategy", "fewest"]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--allow-unsafe"]
    command += ["--quiet", "--output-file", str(HERE / name), *options]
    subprocess.run(command, check=True, input=stdin, text=True, cwd=HERE.parent)


def entries(name: str) -> dict[str, str]:
    """Lock entries of a file: requirement (`name==version`) to its lines."""
    text = COMMENT.sub("", (HERE / name).read_text())
    return {entry.split()[0]: entry for entry in ENTRY.findall(text)}


def write(name: str, title: str, blocks: Iterable[str]) -> None:
    head = f"# {title}\n# Written by `make lock` from pyproject.toml.\n"
    (HERE / name).write_text(head + "".join(blocks))


def main() -> None:
    no_cuda = ("--config-file", str(HERE / "uv.toml"))
    dev_versions = ("--constraints", str(HERE / "dev.txt"))
    compile_lock("dev.txt", "pyproject.toml", "--all-extras", *no_cuda)
    compile_lock("run.txt", "pyproject.toml", "--extra", "pipeline", *dev_versions, *no_cuda)
    dev, run = entries("dev.txt"), entries("run.txt")
    pin = next(requirement for requirement in run if requirement.startswith("torch=="))
    compile_lock("torch.txt", "-", *dev_versions, stdin=pin + "\n")
    compile_lock("pip.txt", "-", stdin=INSTALLERS)

    torch = {name: block for name, block in entries("torch.txt").items() if name not in run}
    torch = {pin: run.pop(pin), **torch}
    del dev[pin]
    write("dev.txt", "Every dependency with every extra, but torch.", dev.values())
    write("run.txt", "What the pipeline runs with, but torch: a part of dev.txt.", run.values())
    write("torch.txt", "torch as PyPI has it: CUDA builds for Linux.", torch.values())
    write("pip.txt", "What installs the other files.", entries("pip.txt").values())
    if f"{pin}+cpu " not in (HERE / "torch-cpu.txt").read_text():
        sys.exit(f"error: torch-cpu.txt is not of {pin}; put in the digests of its CPU builds")


if __name__ == "__main__":
    main()
