"""Say what a recipe downloads, writes, keeps and takes, before anything runs.

  remerge plan                                     # what params.yaml says now
  remerge plan stheno_l2_13b
  remerge plan stheno_l2_13b gradient=inverted quantize=none

With pinned sources the headers of all weight files are read first, kilobytes each, and what cannot
fit is refused; the sizes are then exact. A recipe that is not pinned is planned by what it expects,
and the last line says what to pin; the exit status is then 1.

Times follow from the rates in benchmarks/rates.json, measured on the machine that is named there,
and from --network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remerge.sources.budget import Budget, SourceSize, Step

RATES = Path("benchmarks/rates.json")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="default: params.yaml as it is")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as after -S of dvc")
    parser.add_argument(
        "--network",
        type=float,
        default=50.0,
        help="MB/s that the network brings (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Do it."""
    from remerge.disk import free_bytes
    from remerge.errors import SourceError, printable
    from remerge.sources.budget import plan_budget
    from remerge.sources.pinned import parse_sources

    params = _params(options.recipe, options.overrides)
    try:
        parse_sources(params["recipe"])
        refusal = ""
    except SourceError as error:
        refusal = str(error)
    sizes = _expected(params) if refusal else _exact(params)
    budget = plan_budget(params, sizes)
    rates = _rates()
    _print_table(budget, rates, options.network)
    about = "" if budget.exact else "about "
    free = free_bytes(Path())
    print(f"\nto download: {about}{_size(budget.download)}")
    print(f"kept:        {about}{_size(budget.kept)}")
    print(f"peak:        {about}{_size(budget.peak)} ({_size(free)} are free here)")
    if rates:
        print(f"rates:       {printable(rates.get('machine', 'unknown machine'))}")
    if budget.peak > free:
        print("warning: the disk does not hold this recipe", file=sys.stderr)
    if refusal:
        print(f"error: {refusal}", file=sys.stderr)
    return 1 if refusal else 0


def _params(recipe: str | None, overrides: list[str]) -> dict[str, Any]:
    """The parameters of a recipe, composed by the pipeline's own command."""
    import yaml

    from remerge.errors import RecipeError

    if recipe is None:
        try:
            text = Path("params.yaml").read_text()
        except OSError as error:
            raise RecipeError(f"params.yaml: {error.strerror}; name a recipe") from None
    else:
        # How parameters are composed is the pipeline's business; it has a command for that.
        command = [
            sys.executable,
            "-m",
            "stages.compose",
            "--print",
            f"recipe={recipe}",
            *overrides,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it said nothing"]
            raise RecipeError(f"recipe {recipe!r}: {lines[-1].removeprefix('error: ')}")
        text = done.stdout
    params = yaml.safe_load(text)
    if not isinstance(params, dict) or "recipe" not in params:
        raise RecipeError("params.yaml: holds no recipe")
    return params


def _expected(params: Mapping[str, Any]) -> dict[str, SourceSize]:
    from remerge.sources.budget import expected_size

    return {name: expected_size(entry) for name, entry in params["recipe"]["sources"].items()}


def _exact(params: Mapping[str, Any]) -> dict[str, SourceSize]:
    """Sizes by pins and headers; every source is checked against the recipe on the way."""
    from remerge.sources.budget import SourceSize
    from remerge.sources.files import open_files
    from remerge.sources.intake import adapter_table, tensor_table
    from remerge.sources.pinned import parse_sources
    from remerge.sources.preflight import check_source
    from remerge.tensors.fitting import is_buffer

    recipe = params["recipe"]
    sources = parse_sources(recipe)
    sizes = {}
    with tempfile.TemporaryDirectory() as scratch:
        opened = partial(open_files, root=Path(), scratch=Path(scratch))
        for name, source in sources.items():
            check_source(name, recipe, sources, opened)
            download = sum(pin.size for pin in source.files.values())
            weights, elements = download, 0
            if source.kind != "dataset":
                with opened(source) as files:
                    read = adapter_table if source.kind == "adapter" else tensor_table
                    table = read(files)[0]
                kept = [info for n, (_, info) in table.items() if not is_buffer(n)]
                weights = sum(info.nbytes for info in kept)
                elements = sum(info.size for info in kept)
            largest = max(pin.size for pin in source.files.values())
            sizes[name] = SourceSize(download, largest, weights, elements, exact=True)
    return sizes


def _rates() -> dict[str, Any]:
    """Bytes read and written a second, by stage; empty where nothing was measured."""
    try:
        rates = json.loads(RATES.read_text())
    except (OSError, ValueError):
        return {}
    return rates if isinstance(rates, dict) else {}


def _print_table(budget: Budget, rates: Mapping[str, Any], network_mb: float) -> None:
    row = "{:<14} {:<18} {:>10} {:>10} {:>10} {:>10} {:>8}"
    print(row.format("stage", "", "downloads", "reads", "writes", "temporary", "minutes"))
    total = 0.0
    for step in budget.steps:
        seconds = _seconds(step, rates, network_mb)
        total += seconds or 0.0
        print(
            row.format(
                step.stage,
                step.item,
                *(_size(n) if n else "" for n in (step.download, step.reads, step.writes)),
                _size(step.temporary) if step.temporary else "",
                "" if seconds is None else f"{seconds / 60:.1f}",
            ).rstrip()
        )
    if total:
        print(row.format("", "", "", "", "", "", f"{total / 60:.0f}"))


def _seconds(step: Step, rates: Mapping[str, Any], network_mb: float) -> float | None:
    """Time of a step: its bytes at the stage's rate, or the network if that is slower."""
    stage = step.stage.partition("_p")[0] if step.stage.startswith("ties") else step.stage
    rate = (rates.get("bytes_per_second") or {}).get(stage)
    if not rate or not step.writes:
        return None
    return max((step.reads + step.writes) / float(rate), step.download / (network_mb * 1e6))


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**7 else f"{count / 1e6:.2f} MB"
