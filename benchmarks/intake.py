r"""Taking in a pickled checkpoint: verified, converted to safetensors shards, beside the floor.

    python -m benchmarks.intake --gigabytes 10 --work /var/tmp/bench

One `.bin` shard of that size, as checkpoints of 2023 were saved. The floor reads it once and writes
as much with fsync; fetch reads it twice (digest, then tensors) and hashes what it writes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from benchmarks.measure import run

HIDDEN = 4096
ROW_BYTES = 2 * HIDDEN

PROGRAM = """
import json, sys
from functools import partial
from pathlib import Path
from remerge.threads import thread_count
from remerge.sources.files import open_files
from remerge.sources.intake import take_in_model
from remerge.sources.pinned import parse_source
work = Path(sys.argv[1])
source = parse_source("large", json.loads((work / "source.json").read_text()))
with open_files(source, root=work, scratch=work / "scratch") as files:
    take_in_model(files, work / "out", scratch=work / "scratch", shard_bytes=2 * 10**9,
                  threads=thread_count())
"""


def make_source(work: Path, gigabytes: float) -> Path:
    """A folder with one pickled shard of float16 linear layers, and the entry that pins it."""
    import torch

    folder = work / "source"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    layers = max(1, round(gigabytes * 1e9 / (ROW_BYTES * HIDDEN)))
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.integers(0, 0x3C00, (HIDDEN, HIDDEN), np.uint16).view(np.float16))
    torch.save({f"model.layers.{i}.mlp.up_proj.weight": noise + i * 2**-12 for i in range(layers)},
               folder / "pytorch_model.bin")  # fmt: skip
    config = {"model_type": "llama", "num_hidden_layers": layers, "hidden_size": HIDDEN,
              "intermediate_size": HIDDEN, "num_attention_heads": 32, "vocab_size": 64}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.name] = {"sha256": digest, "size": path.stat().st_size}
    entry = {"kind": "model", "path": "source", "files": files, "out": "models/large"}
    (work / "source.json").write_text(json.dumps(entry))
    return folder / "pytorch_model.bin"


def main() -> None:
    """Measure in turns and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intake", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--work", type=Path, required=True, help="folder for files")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    work = options.work.resolve() / "intake"
    pickled, copy = make_source(work, options.gigabytes), work / "copy"
    floor = ["sh", "-c", f"cat '{pickled}' | dd of='{copy}' bs=4M conv=fsync iflag=fullblock"]
    ours = [sys.executable, "-c", PROGRAM, str(work)]
    print("| turn | floor s | fetch s | × floor | CPU s | anonymous MB |")
    print("|---|--:|--:|--:|--:|--:|")
    for turn in range(options.repeat):
        low = run(floor)
        copy.unlink()
        cost = run(ours)
        shutil.rmtree(work / "out")
        print(
            f"| {turn + 1} | {low.wall:.2f} | {cost.wall:.2f} | {cost.wall / low.wall:.2f} | "
            f"{cost.processor:.2f} | {cost.anonymous / 1e6:.0f} |",
            flush=True,
        )
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
