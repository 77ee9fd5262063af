"""Units on a cluster of one machine against the local pool, and the plan of a very large merge.

    python benchmarks/cluster.py         # both, as the Markdown table of docs/performance.md
    python benchmarks/cluster.py pool    # local pool, one node, two nodes; overhead of a unit
    python benchmarks/cluster.py plan    # 405B-shaped: 191 shards, 8 donors, headers only

Needs the extra `ray`, about 1 GB of disk and a machine that does nothing else: the last column is
its load while the row was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from remerge.cluster import shard_maker
from remerge.cluster.footprint import footprint, inputs_by_tensor
from remerge.methods.ties import Donor, TiesSettings, plan_ties
from remerge.shards.units import build_shards
from remerge.tensors.checkpoint import open_checkpoint
from remerge.tensors.layout import OutputTensor, index_of, plan_shards
from tests.cluster.models import make_family, ties_of
from tests.cluster.nodes import Cluster

SHARD_405B = 4_900_000_000


def pool() -> None:
    """The same TIES merge by the local pool, one node and two nodes, in one run."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_family(root, layers=24, rows=4096)
        plan = ties_of(root)
        expected = None
        with Cluster() as cluster:
            on_ray = shard_maker({"address": cluster.address, "cpus": 1})
            for label, make, nodes in (
                ("local pool, 1 thread", lambda p, f: build_shards(p, f, 1), 1),
                ("Ray, 1 node of 1 CPU", lambda p, f: on_ray(p, f, 1), 1),
                ("Ray, 2 nodes of 1 CPU", lambda p, f: on_ray(p, f, 1), 2),
                ("local pool, 2 threads", lambda p, f: build_shards(p, f, 2), 2),
            ):
                if "Ray" in label and len(cluster.nodes) < nodes:
                    cluster.add()
                seconds = []
                for attempt in range(2):
                    begin = time.perf_counter()
                    records = make(plan, root / f"{label}{attempt}")
                    seconds.append(time.perf_counter() - begin)
                expected = expected or records
                assert records == expected
                row(f"{label}, 805 MB in, 201 MB out, 24 units", f"{min(seconds):.2f} s")
            tiny = root / "tiny"
            make_family(tiny, layers=200, rows=1)
            plan = ties_of(tiny, shard_bytes=1)
            begin = time.perf_counter()
            build_shards(plan, tiny / "local", 1)
            here = time.perf_counter() - begin
            walls = {}
            for count in (1, 200):
                begin = time.perf_counter()
                out = tiny / f"out{count}"
                if count == 1:  # all but one shard are there: what a run costs besides its units
                    build_shards(plan, out, 1, only=range(1, 200))
                    begin = time.perf_counter()
                on_ray(plan, out, 1)
                walls[count] = time.perf_counter() - begin
            unit = (walls[200] - walls[1]) / 199
            row("a run's start and end on Ray", f"{walls[1]:.2f} s")
            row(
                "a unit of no work on Ray",
                f"{unit * 1000:.1f} ms (local {here / 200 * 1000:.1f} ms)",
            )


def row(what: str, measured: str) -> None:
    """A row of the table, with the load of the machine."""
    print(f"| {what} | {measured} | {os.getloadavg()[0]:.1f} |", flush=True)


def llama_405b() -> list[OutputTensor]:
    """Names and shapes of Llama 3.1 405B in bf16."""
    hidden, middle, vocabulary, keys = 16384, 53248, 128256, 1024
    made = [OutputTensor("model.embed_tokens.weight", "BF16", (vocabulary, hidden))]
    for layer in range(126):
        shapes = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (middle, hidden),
            "mlp.up_proj": (middle, hidden),
            "mlp.down_proj": (hidden, middle),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        made += [
            OutputTensor(f"model.layers.{layer}.{name}.weight", "BF16", shape)
            for name, shape in shapes.items()
        ]
    made.append(OutputTensor("model.norm.weight", "BF16", (hidden,)))
    return [*made, OutputTensor("lm_head.weight", "BF16", (vocabulary, hidden))]


def make_sparse(folder: Path) -> int:
    """A checkpoint whose files have headers and holes; the number of its files."""
    folder.mkdir()
    shards = plan_shards(llama_405b(), SHARD_405B)
    for shard in shards:
        with (folder / shard.file).open("wb") as file:
            file.write(shard.header)
            file.truncate(shard.nbytes)
    (folder / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": false}')
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_of(shards)))
    return len(shards)


def peak_memory() -> int:
    """Bytes that this program has held at most; getrusage would count its parent's, up to exec."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def plan() -> None:
    """Plan, not run, a TIES merge of 8 donors of 405B."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = ["base", *(f"donor{i}" for i in range(1, 9))]
        files = [make_sparse(root / name) for name in names]
        begin = time.perf_counter()
        made = plan_ties(
            open_checkpoint(root / "base"),
            [Donor(open_checkpoint(root / name), 0.5) for name in names[1:]],
            TiesSettings(),
            dtype="BF16",
            shard_bytes=SHARD_405B,
        )
        inputs = inputs_by_tensor(made)
        prints = [footprint(inputs, shard) for shard in made.shards]
        seconds = time.perf_counter() - begin
        peak = peak_memory()
    read, written = sum(p.read for p in prints), sum(p.written for p in prints)
    row(
        f"plan of 405B, {files[0]} shards, 8 donors: {read / 1e12:.2f} TB in, "
        f"{written / 1e12:.2f} TB out",
        f"{seconds:.1f} s, {peak / 1e6:.0f} MB",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("pool", "plan"), help="one part alone")
    chosen = parser.parse_args().what
    print("| TIES of 3 donors, the better of two runs | measured | load |\n|---|---:|---:|")
    for name, measure in (("plan", plan), ("pool", pool)):
        if chosen in (None, name):
            measure()
