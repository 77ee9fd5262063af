r"""Merges of made-up Llamas beside the machine's limit and beside other tools.

    python -m benchmarks.merge --size 0.94B --work /var/tmp/bench --repeat 3 \
        --mergekit /var/tmp/mergekit/bin/mergekit-yaml --peft

For every method the contenders take turns, `--repeat` rounds of them, and the medians are printed:
a machine that others use is slow now and fast then, but a turn's neighbours share its weather. The
first contender is always the floor: read all inputs with `cat`, write one model with `dd`, fsync.
The second is the parallel floor: every core reads and writes its share of the files.
mergekit wants an environment of its own: `python -m venv DIR; DIR/bin/pip install mergekit==0.1.5`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.inputs import SIZES, Size, make_adapter, make_models
from benchmarks.measure import Cost, run
from benchmarks.methods import METHODS, models_of, needs_base

RANKS = (16, 64)


@dataclass(frozen=True)
class Job:
    """One merge: what it reads, and the commands that do it, by contender."""

    name: str
    inputs: tuple[Path, ...]
    output_like: Path
    commands: dict[str, list[str]]


def weights_of(folder: Path) -> list[Path]:
    """The safetensors files of a folder."""
    return sorted(folder.glob("*.safetensors"))


def floor_command(inputs: Sequence[Path], model: Path, copy: Path) -> list[str]:
    """Read everything, write one model."""
    every = shlex.join(str(file) for folder in inputs for file in weights_of(folder))
    one = shlex.join(str(file) for file in weights_of(model))
    write = f"dd of={shlex.quote(str(copy))} bs=4M conv=fsync iflag=fullblock"
    return ["sh", "-c", f"cat {every} > /dev/null && cat {one} | {write}"]


def parallel_floor_command(inputs: Sequence[Path], model: Path, copy: Path) -> list[str]:
    """Read everything and write one model, with every core at both."""
    every = [str(file) for folder in inputs for file in weights_of(folder)]
    one = [str(file) for file in weights_of(model)]
    program = [sys.executable, "-m", "benchmarks.parallel_floor", str(copy), "--read", *every]
    return [*program, "--write", *one]


def own_command(method: str, out: Path, inputs: Sequence[Path]) -> list[str]:
    """This library, in a process of its own."""
    return [sys.executable, "-m", "benchmarks.ours", method, str(out), *map(str, inputs)]


def mergekit_command(
    program: str, work: Path, method: str, out: Path, inputs: Sequence[Path]
) -> list[str]:
    """The same merge by mergekit: the same models, with the same parameters."""
    base, *donors = inputs
    if method in METHODS:
        name, parameters = METHODS[method]
        config: dict[str, object] = {"merge_method": name, "parameters": parameters}
        has_base = needs_base(name)
        config["models"] = [{"model": str(m)} for m in (donors if has_base else inputs)]
        if has_base:
            config["base_model"] = str(base)
    elif method == "ties":
        models = [{"model": str(d), "parameters": {"density": 0.33, "weight": 1.0}} for d in donors]
        config = {"models": models, "merge_method": "ties"}
        config |= {"base_model": str(base), "parameters": {"normalize": True}}
    else:
        models = [{"model": str(m), "parameters": {"weight": 0.5}} for m in inputs]
        config = {"models": models, "merge_method": "linear"}
    config["dtype"] = "float16"
    path = work / f"mergekit-{method}.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return [program, str(path), str(out), "--no-copy-tokenizer"]


def jobs(options: argparse.Namespace, work: Path, size: Size) -> list[Job]:
    """The merges that the options ask for, their inputs made."""
    out = work / "out"
    base, donors = make_models(work, size, options.donors)
    found = []
    for method in options.methods:
        if method == "bake":
            for rank in RANKS:
                pair = (base, make_adapter(work, size, rank))
                commands = {"remerge": own_command("bake", out, pair)}
                if options.peft:
                    program = [sys.executable, "-m", "benchmarks.peft_bake"]
                    commands["peft"] = [*program, str(out), *map(str, pair)]
                found.append(Job(f"bake, r = {rank}", pair, base, commands))
            continue
        inputs = (base, *donors) if method == "ties" else (base, donors[0])
        if method in METHODS:
            inputs = (base, *donors)[: models_of(METHODS[method][0], options.donors)]
        commands = {"remerge": own_command(method, out, inputs)}
        if options.mergekit:
            commands["mergekit"] = mergekit_command(options.mergekit, work, method, out, inputs)
        name = f"TIES, {len(donors)} donors" if method == "ties" else method
        found.append(Job(name, inputs, base, commands))
    return found


def measure_job(job: Job, work: Path, repeat: int, once: Sequence[str]) -> dict[str, Cost]:
    """Medians of each contender, the floor first; those in `once` have one turn."""
    out, copy = work / "out", work / "copy"
    commands = {
        "floor": floor_command(job.inputs, job.output_like, copy),
        "parallel floor": parallel_floor_command(job.inputs, job.output_like, copy),
        **job.commands,
    }
    turns: dict[str, list[Cost]] = {name: [] for name in commands}
    for turn in range(repeat):
        for name, command in commands.items():
            if turn and name in once:
                continue
            shutil.rmtree(out, ignore_errors=True)
            copy.unlink(missing_ok=True)
            turns[name].append(run(command))
            cost = turns[name][-1]
            print(f"  {name}: {cost.wall:.2f} s, {cost.processor:.2f} s CPU", file=sys.stderr)
    shutil.rmtree(out, ignore_errors=True)
    copy.unlink(missing_ok=True)
    return {
        name: Cost(
            statistics.median(c.wall for c in costs),
            statistics.median(c.processor for c in costs),
            max(c.anonymous for c in costs),
            max(c.mapped for c in costs),
        )
        for name, costs in turns.items()
    }


def main() -> None:
    """Measure and print a table in Markdown; keep the numbers in `--results`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merge", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="0.94B")
    parser.add_argument("--donors", type=int, default=3, help="donors of the TIES merge")
    parser.add_argument("--work", type=Path, required=True, help="folder for models and outputs")
    parser.add_argument(
        "--method", "--methods", dest="methods", nargs="+", default=["ties", "gradient", "bake"]
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--mergekit", help="path of mergekit-yaml; left out where not given")
    parser.add_argument("--peft", action="store_true", help="peft as a contender of the bakes")
    parser.add_argument("--once", nargs="*", default=["mergekit", "peft"], help="one turn only")
    parser.add_argument("--results", type=Path, help="JSON lines to add to")
    options = parser.parse_args()
    size = SIZES[options.size]
    work = options.work.resolve() / options.size
    work.mkdir(parents=True, exist_ok=True)
    titles = ("wall s", "× floor", "× parallel", "GB/s", "CPU s", "anonymous MB", "mapped MB")
    print(f"| merge | contender | {' | '.join(titles)} |")
    print("| --- | --- | --: | --: | --: | --: | --: | --: | --: |")
    for job in jobs(options, work, size):
        moved = sum(f.stat().st_size for folder in job.inputs for f in weights_of(folder))
        moved += sum(f.stat().st_size for f in weights_of(job.output_like))
        costs = measure_job(job, work, options.repeat, options.once)
        for name, cost in costs.items():
            numbers = [
                f"{cost.wall:.2f}",
                f"{cost.wall / costs['floor'].wall:.2f}",
                f"{cost.wall / costs['parallel floor'].wall:.2f}",
                f"{moved / cost.wall / 1e9:.2f}",
                f"{cost.processor:.2f}",
                f"{cost.anonymous / 1e6:.0f}",
                f"{cost.mapped / 1e6:.0f}",
            ]
            print(f"| {options.size} {job.name} | {name} | {' | '.join(numbers)} |", flush=True)
            if options.results:
                row = {"size": options.size, "donors": options.donors, "job": job.name}
                row |= {"parameters": size.parameters, "contender": name, **asdict(cost)}
                with options.results.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
