r"""Whole models quantised, beside the machine's limit and beside llama.cpp's own quantiser.

    python -m benchmarks.quantize --size 0.94B --work /var/tmp/bench --repeat 5

For every format three contenders take turns, `--repeat` rounds of them; medians are printed:

* `floor` reads the model's files and writes as many bytes as the format has, with fsync;
* `remerge` makes the format, start to end, in a process of its own;
* `llama.cpp` quantises the same tensors to the same types with `ggml_quantize_chunk` (from the
  shared object of the xllamacpp wheel) on the same number of threads, and writes nothing: its rows
  are widened to float32 beforehand, outside of the time. Left out for the formats that only copy.

`× floor` is the measure for the simple types (at most 3), `× llama.cpp` for the K types (at most
1). Ours has the start of Python, reading, widening, writing and hashing in it, theirs has not.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shlex
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.inputs import SIZES, Size, make_models
from benchmarks.measure import Cost, run
from remerge.quantize.blocks.types import TYPES
from remerge.quantize.core.llama import llama_tensors, read_shape
from remerge.quantize.core.mixture import Layout
from remerge.quantize.formats import FORMATS, choose
from remerge.quantize.ggml.mixture import choose_type as ggml_type
from remerge.quantize.gguf.mixture import choose_type as gguf_type
from remerge.tensors.checkpoint import open_checkpoint, read_config
from remerge.threads import thread_count

#: Rows of one call to llama.cpp's quantiser, as its own program cuts a tensor for its threads.
ROWS = 64
#: Types that llama.cpp has to compute; the rest is copied or narrowed.
COMPUTED = {name for name in TYPES if name.startswith("Q")}


def tokenizer(rows: int) -> bytes:
    """A `tokenizer.model` of `rows` pieces, in the protocol buffer of SentencePiece."""

    def message(number: int, body: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(body)) + body

    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        return bytes([*out, value])

    kinds = {0: ("<unk>", 2), 1: ("<s>", 3), 2: ("</s>", 3)}
    pieces = []
    for token in range(rows):
        text, kind = kinds.get(token, (f"piece{token}", 1))
        if token >= rows - 256:
            text, kind = f"<0x{token - rows + 256:02X}>", 6
        pieces.append(message(1, message(1, text.encode()) + varint(3 << 3) + varint(kind)))
    return b"".join(pieces) + message(2, varint(3 << 3) + varint(2))


def make_model(work: Path, size: Size) -> Path:
    """A Llama of normal numbers with everything that a format needs."""
    model, _ = make_models(work, size, donors=0)
    config = json.loads((model / "config.json").read_text())
    (model / "tokenizer.model").write_bytes(tokenizer(config["vocab_size"]))
    # Legacy GGML can hold only a tokenizer that adds BOS and a first space.
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


def floor_command(model: Path, written: int, copy: Path) -> list[str]:
    """Read the model, write `written` bytes of it."""
    files = sorted(model.glob("*.safetensors"))
    every = shlex.join(map(str, files))
    # What is smaller than the model is the head of it; what is larger takes it more than once.
    times = -(-written // sum(file.stat().st_size for file in files))
    one = " ".join([every] * times)
    write = f"dd of={shlex.quote(str(copy))} bs=4M conv=fsync iflag=fullblock"
    return ["sh", "-c", f"cat {every} > /dev/null && cat {one} | head -c {written} | {write}"]


def types_of(model: Path, name: str) -> list[tuple[str, int, int]]:
    """(type, rows, columns) of every matrix that `name` has to compute."""
    shape = read_shape(read_config(model), str(model))
    tensors = [t for t in llama_tensors(open_checkpoint(model), shape) if len(t.info.shape) == 2]
    choose_type = gguf_type if FORMATS[name].container == "gguf" else ggml_type
    layout = Layout(shape.layers, shape.heads, shape.kv_heads, shape.tied)
    kinds = [
        choose_type(each.part, each.layer, each.info.shape, FORMATS[name], layout)
        for each in tensors
    ]
    rows = zip(kinds, tensors, strict=True)
    return [(kind, tensor.rows, tensor.columns) for kind, tensor in rows if kind in COMPUTED]


def llama_cpp_seconds(model: Path, name: str, threads: int) -> float | None:
    """Time of llama.cpp's quantiser for all matrices of a format; None if it has nothing to do."""
    import xllamacpp

    folder = Path(xllamacpp.__file__).parent
    quantize_chunk = ctypes.CDLL(str(next(folder.glob("xllamacpp*.so")))).ggml_quantize_chunk
    quantize_chunk.restype = ctypes.c_size_t
    number = ctypes.c_int64
    quantize_chunk.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[number] * 3, ctypes.c_void_p]
    total = 0.0
    for (kind, rows, columns), count in Counter(types_of(model, name)).items():
        draw = np.random.default_rng(0)
        values = draw.standard_normal((min(rows, 4096), columns), np.float32) * np.float32(0.02)
        out = np.zeros(TYPES[kind].size(values.size), np.uint8)

        def work(
            start: int,
            kind: str = kind,
            values: np.ndarray = values,
            out: np.ndarray = out,
            columns: int = columns,
        ) -> None:
            some = min(ROWS, len(values) - start)
            source, target = values.ctypes.data, out.ctypes.data
            # `start` counts weights from the beginning of both arrays.
            first = start * columns
            quantize_chunk(TYPES[kind].code, source, target, first, some, columns, None)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(0, len(values), ROWS)))
            began = time.perf_counter()
            list(pool.map(work, range(0, len(values), ROWS)))
            taken = time.perf_counter() - began
        total += count * taken * rows / len(values)
    return total or None


def own_command(model: Path, out: Path, name: str) -> list[str]:
    """This library, in a process of its own."""
    program = [sys.executable, "-m", "remerge.cli", "quantize"]
    return [*program, str(model), name, "--out", str(out)]


def measure_format(
    model: Path, work: Path, name: str, repeat: int, threads: int
) -> tuple[dict[str, Cost], int]:
    """Medians of each contender, the floor first, and the bytes of the format."""
    out, copy = work / "out", work / "copy"
    shutil.rmtree(out, ignore_errors=True)
    environment = {"REMERGE_THREADS": str(threads)}
    run(own_command(model, out, name), environment)  # compiles, and tells the size
    written = max(path.stat().st_size for path in (out / name).iterdir())
    turns: dict[str, list[Cost]] = {"floor": [], "remerge": [], "llama.cpp": []}
    for _ in range(repeat):
        shutil.rmtree(out, ignore_errors=True)
        copy.unlink(missing_ok=True)
        turns["floor"].append(run(floor_command(model, written, copy)))
        copy.unlink(missing_ok=True)
        turns["remerge"].append(run(own_command(model, out, name), environment))
        seconds = llama_cpp_seconds(model, name, threads)
        if seconds is not None:
            turns["llama.cpp"].append(Cost(seconds, seconds * threads, 0, 0))
        told = ", ".join(f"{who} {costs[-1].wall:.2f} s" for who, costs in turns.items() if costs)
        print(f"  {name}: {told}", file=sys.stderr)
    shutil.rmtree(out, ignore_errors=True)
    return {who: median(costs) for who, costs in turns.items() if costs}, written


def median(costs: Sequence[Cost]) -> Cost:
    """The middle of several turns; of memory the peak."""
    return Cost(
        statistics.median(cost.wall for cost in costs),
        statistics.median(cost.processor for cost in costs),
        max(cost.anonymous for cost in costs),
        max(cost.mapped for cost in costs),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="0.94B")
    parser.add_argument("--work", type=Path, required=True, help="folder for model and outputs")
    parser.add_argument("--formats", nargs="+", default=["exact"], help="default: exact")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: all cores")
    options = parser.parse_args(arguments)
    threads = thread_count(options.threads)
    work = options.work.resolve() / options.size
    work.mkdir(parents=True, exist_ok=True)
    model = make_model(work, SIZES[options.size])
    print(
        "| format | GB written | floor s | remerge s | × floor | llama.cpp s | × llama.cpp "
        "| anonymous MB |\n| --- | --: | --: | --: | --: | --: | --: | --: |"
    )
    for form in choose(options.formats):
        assert FORMATS[form.name].class_ == "exact", "GPTQ is measured by what it loses"
        costs, written = measure_format(model, work, form.name, options.repeat, threads)
        own, floor, other = costs["remerge"], costs["floor"], costs.get("llama.cpp")
        cells = [
            f"{written / 1e9:.2f}",
            f"{floor.wall:.2f}",
            f"{own.wall:.2f}",
            f"{own.wall / floor.wall:.2f}",
            f"{other.wall:.2f}" if other else "",
            f"{own.wall / other.wall:.2f}" if other else "",
            f"{own.anonymous / 1e6:.0f}",
        ]
        print(f"| {form.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
