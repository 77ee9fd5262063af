"""Fuzz the readers: `python -m fuzz [TARGET …] [--runs N]`, each in a process of its own.

An input that fails is kept as fuzz/corpus/TARGET-crash-…. With `--record`, what was run is added to
fuzz/runs.json, from which docs/faults.md has its counts.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def child(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process."""
    import atheris

    if name == "pickle":
        import torch  # not instrumented: minutes before the first run

        assert torch
    with atheris.instrument_imports(include=["remerge"], exclude=compiled_modules()):
        from fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def compiled_modules() -> list[str]:
    """Modules with kernels, which no compiler takes once they are instrumented."""
    source = HERE.parent / "src"
    return [
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for path in (source / "remerge").rglob("*.py")
        if "numba" in path.read_text() or "compiled" in path.read_text()
    ]


def fuzz(name: str, runs: int, seconds: int, seed: int, record: bool) -> bool:
    """Run one target; True if nothing was found."""
    from fuzz.targets import SEEDS

    corpus = HERE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(SEEDS[name]):
        (corpus / f"seed{number}").write_bytes(content)
    options = [f"-runs={runs}", f"-max_total_time={seconds}", "-max_len=2048", "-timeout=20"]
    options += ["-rss_limit_mb=4096", "-print_final_stats=1", f"-seed={seed}"]
    crashes = f"-artifact_prefix={HERE / 'corpus' / name}-"
    result = subprocess.run(
        [sys.executable, "-m", "fuzz", "--child", name, *options, crashes, str(corpus)],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    done = re.search(r"number_of_executed_units: (\d+)", result.stderr)
    count = int(done[1]) if done else 0
    if record:
        path = HERE / "runs.json"
        counts = json.loads(path.read_text()) if path.exists() else {}
        counts[name] = counts.get(name, 0) + count
        path.write_text(json.dumps(counts, indent=2, sort_keys=True) + "\n")
    print(
        f"{name}: {count} runs, {'nothing found' if result.returncode == 0 else 'a finding'}",
        flush=True,
    )
    if result.returncode:
        print(result.stderr[-3000:])
    return result.returncode == 0


def main() -> int:
    """The command line."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
        return 0
    from fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--runs", type=int, default=1_000_000, help="a target")
    parser.add_argument("--seconds", type=int, default=0, help="and at most so long (0: no limit)")
    parser.add_argument(
        "--seed", type=int, help="of the random inputs (default: another each time)"
    )
    parser.add_argument("--record", action="store_true", help="add the runs to fuzz/runs.json")
    options = parser.parse_args()
    chosen = options.targets or TARGETS
    # libFuzzer takes 0 for a seed of its own choice.
    seed = (secrets.randbits(32) if options.seed is None else options.seed) % 2**32 or 1
    print(f"seed {seed}: repeat with --seed {seed}", flush=True)
    sound = [fuzz(name, options.runs, options.seconds, seed, options.record) for name in chosen]
    return 0 if all(sound) else 1


if __name__ == "__main__":
    sys.exit(main())
