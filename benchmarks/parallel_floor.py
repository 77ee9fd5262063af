"""The machine's limit with every core at work: read all inputs, write one model, fsync.

python -m benchmarks.parallel_floor COPY --read FILE … --write FILE …

Parts of 16 MB are shared out to as many threads as there are cores; COPY gets the files of
`--write` one after the other.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PART = 1 << 24


def main() -> None:
    """Read and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("copy", type=Path)
    parser.add_argument("--read", type=Path, nargs="+", required=True)
    parser.add_argument("--write", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    sizes = {file: file.stat().st_size for file in (*options.read, *options.write)}
    opened = {file: os.open(file, os.O_RDONLY) for file in sizes}
    out = os.open(options.copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    whole = sum(sizes[file] for file in options.write)
    os.posix_fallocate(out, 0, whole)

    def read(part: tuple[Path, int]) -> None:
        os.pread(opened[part[0]], PART, part[1])

    def write(part: tuple[Path, int, int]) -> None:
        file, offset, place = part
        os.pwrite(out, os.pread(opened[file], PART, offset), place)

    reads = [(f, o) for f in options.read for o in range(0, sizes[f], PART)]
    writes, begin = [], 0
    for file in options.write:
        writes += [(file, o, begin + o) for o in range(0, sizes[file], PART)]
        begin += sizes[file]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(read, reads))
        list(pool.map(write, writes))
    os.fsync(out)


if __name__ == "__main__":
    main()
