"""Say what a recipe downloads, writes, keeps and takes, before anything runs.

  remerge plan                                     # what params.yaml says now
  remerge plan stheno_l2_13b
  remerge plan stheno_l2_13b gradient=inverted quantize=none
  remerge plan --tensors                           # each tensor: method, inputs, parameters, type
  remerge plan merge.yml --models ~/models         # the same for a mergekit file

With pinned sources the headers of all weight files are read first, kilobytes each, and what cannot
fit is refused; the sizes are then exact. A recipe that is not pinned is planned by what it expects,
and the last line says what to pin; the exit status is then 1.

`would run` says which stages the parameters would run, by dvc.lock (`dvc exp run --dry` cannot).

Times follow from the rates in benchmarks/rates.json, measured on the machine that is named there,
and from --network.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remerge.errors import RecipeError, SourceError, printable
from remerge.formatting import size

if TYPE_CHECKING:
    from remerge.pins.budget import Budget, SourceSize, Step

RATES = Path("benchmarks/rates.json")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="default: params.yaml as it is")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as after -S of dvc")
    parser.add_argument(
        "--tensors",
        action="store_true",
        help="print the merge table, a line a tensor, from the headers of models that are here",
    )
    parser.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="with a mergekit file: where models lie that are named owner/name or name",
    )
    parser.add_argument(
        "--network",
        type=_positive,
        default=50.0,
        help="MB/s that the network brings (default: %(default)s)",
    )


def _positive(text: str) -> float:
    """A number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


_positive.__name__ = "number above 0"  # what argparse calls it in its message


def run(options: argparse.Namespace) -> int:
    """Do it."""
    from remerge.commands.common import describe
    from remerge.files import free_bytes

    if options.tensors or str(options.recipe).endswith((".yml", ".yaml")):
        _print_tensors(options)
        return 0
    composed = _composed(options.recipe, options.overrides)
    params = describe(composed, f"recipe {options.recipe}" if options.recipe else "params.yaml")
    budget, refusal = _budget(params, composed)
    rates = _rates()
    _print_table(budget, rates, options.network)
    about = "" if budget.exact else "about "
    free = free_bytes(Path())
    print(f"\nto download: {about}{size(budget.download)}")
    print(f"kept:        {about}{size(budget.kept)}")
    if budget.cached:
        print(f"hub's cache: {about}{size(budget.cached)} more (HF_HUB_CACHE, HF_HOME)")
    print(f"peak:        {about}{size(budget.peak)} ({size(free)} are free here)")
    if rates:
        print(f"rates:       {printable(rates.get('machine', 'unknown machine'))}")
    _print_affected(composed)
    if budget.peak > free:
        print("warning: the disk does not hold this recipe", file=sys.stderr)
    if refusal:
        print(f"error: {refusal}", file=sys.stderr)
    return 1 if refusal else 0


def _print_affected(composed: Mapping[str, Any]) -> None:
    """Say which stages would run, where something was built already."""
    from remerge.proof.affected import affected, in_words, stages_of
    from remerge.yaml_text import read_yaml

    try:
        lock = read_yaml(Path("dvc.lock"))
    except (OSError, ValueError):
        return
    names = affected(lock, composed)
    print(f"would run:   {in_words(names, len(stages_of(composed)))} (and what `dvc status` names)")


def _print_tensors(options: argparse.Namespace) -> None:
    """Print the merge tables of a mergekit file or of a recipe whose models are here."""
    from remerge.commands.merge import folder_in
    from remerge.merge.table_plan import tables_of
    from remerge.recipes.mergekit.reading import read_merges
    from remerge.recipes.methods import GradientSection, TiesSection
    from remerge.recipes.nodes import folders_of, merges_of
    from remerge.recipes.planning import Find, Settings, planned
    from remerge.recipes.schema import read_recipe, read_section

    find: Find = partial(folder_in, options.models)
    result = None
    if str(options.recipe).endswith((".yml", ".yaml")):
        merges = read_merges(Path(options.recipe))
    else:
        params = _composed(options.recipe, options.overrides)
        if not isinstance(params, dict):
            raise RecipeError("params.yaml: holds no recipe; compose it again")
        recipe = read_recipe(params.get("recipe"))
        ties, gradient = (
            read_section(model, params, name) if name in params else None
            for name, model in (("ties", TiesSection), ("gradient", GradientSection))
        )
        merges, result = merges_of(recipe, ties, gradient), recipe.result
        folders = folders_of(recipe)
        find = lambda path, revision: folder_in(None, folders.get(path, path), None)  # noqa: E731
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(find, Path(scratch), 1 << 40, result=result)
        with planned(merges, settings) as found:
            for label, table in tables_of(found.plan).items():
                print(f"# {printable(label)}: {len(table.rows)} tensors")
                print(table.text())


def _budget(params: Mapping[str, Any], composed: Mapping[str, Any]) -> tuple[Budget, str]:
    """The budget, and why the recipe cannot be built so, or an empty text."""
    from remerge.pins.budget import expected_size, plan_budget
    from remerge.sources.pinned import parse_sources

    sources = params["recipe"]["sources"]
    try:
        roughly = plan_budget(params, {name: expected_size(sources[name]) for name in sources})
        suite = (params.get("eval") or {}).get("suite") or ""
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RecipeError(
            f"params.yaml: its recipe is not whole ({type(error).__name__}: "
            f"{printable(error, 80)}); compose it again with `make params`"
        ) from None
    try:
        parse_sources(params["recipe"], suite)
    except SourceError as error:
        return roughly, str(error)
    sizes, refusal = _exact(params, composed)
    return plan_budget(params, sizes), refusal


def _composed(recipe: str | None, overrides: list[str]) -> Any:
    """The parameters of a recipe, composed by the pipeline's own command."""
    import yaml

    from remerge.commands.common import compose, read_composed

    if recipe is None:
        return read_composed()
    try:
        return yaml.safe_load(compose([f"recipe={recipe}", *overrides]))
    except RecipeError as error:
        raise RecipeError(f"recipe {recipe!r}: {error}") from None


def _exact(
    params: Mapping[str, Any], composed: Mapping[str, Any]
) -> tuple[dict[str, SourceSize], str]:
    """Sizes by pins and headers, and why formats cannot be made; every source is checked."""
    from remerge.pins.budget import SourceSize
    from remerge.progress import track
    from remerge.recipes.methods import GradientSection
    from remerge.recipes.preflight import check_formats_of_source, check_order_of_source
    from remerge.recipes.schema import Quantize, read_recipe, read_section
    from remerge.recipes.tables import read_tables
    from remerge.sources.files import open_files
    from remerge.sources.pinned import parse_sources
    from remerge.sources.preflight import Descriptions, check_source

    recipe = params["recipe"]
    sources = parse_sources(recipe)
    sizes = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        track(len(sources), "looking at sources", unit="source") as bar,
    ):
        opened = partial(open_files, root=Path(), scratch=Path(scratch))
        described = Descriptions(opened)
        for name, source in sources.items():
            check_source(name, recipe, sources, described)
            pins = [pin.size for pin in source.files.values()]
            with opened(source) as files:
                download = files.missing_bytes()
            weights, elements = sum(pins), 0
            if source.kind != "dataset":
                kept = described.tensors(source).values()
                weights, elements = sum(t.nbytes for t in kept), sum(t.size for t in kept)
            sizes[name] = SourceSize(sum(pins), download, max(pins), weights, elements, exact=True)
            bar.advance(1)
        try:
            tables = read_tables(composed)
            base = sources[Path(tables.places.base).name]
            section = read_section(GradientSection, composed, "gradient")
            check_order_of_source(read_recipe(composed["recipe"]), section, described, base)
            settings = read_section(Quantize, composed, "quantize")
            check_formats_of_source(tables, settings, opened, base)
        except RecipeError as error:
            return sizes, str(error)
    return sizes, ""


def _rates() -> dict[str, Any]:
    """Bytes read and written a second, by stage or format; empty where nothing was measured."""
    try:
        rates = json.loads(RATES.read_text())
    except (OSError, ValueError):
        return {}
    return rates if isinstance(rates, dict) else {}


def _print_table(budget: Budget, rates: Mapping[str, Any], network_mb: float) -> None:
    row = "{:<14} {:<18} {:>10} {:>10} {:>10} {:>10} {:>8}"
    print(row.format("stage", "", "downloads", "reads", "writes", "temporary", "minutes"))
    total, untold = 0.0, Counter[str]()
    for step in budget.steps:
        seconds = _seconds(step, rates, network_mb)
        total += seconds or 0.0
        if seconds is None:
            untold[step.stage] += 1
        print(
            row.format(
                step.stage,
                step.item,
                *(size(n) if n else "" for n in (step.download, step.reads, step.writes)),
                size(step.temporary) if step.temporary else "",
                "" if seconds is None else f"{seconds / 60:.1f}",
            ).rstrip()
        )
    if total:
        items = [f"{n} {'item' if n == 1 else 'items'} of {stage}" for stage, n in untold.items()]
        without = f"without {' and '.join(items)}: no rate is known" if items else ""
        print(f"{without:<77} {total / 60:>8.0f}")


def _seconds(step: Step, rates: Mapping[str, Any], network_mb: float) -> float | None:
    """Time of a step: its bytes at the rate of its format or stage, or the network's if slower."""
    stage = step.stage.partition("_p")[0] if step.stage.startswith("ties") else step.stage
    known = rates.get("bytes_per_second") or {}
    rate = known.get(step.item if stage == "quantize_eval" else stage)
    if not rate or not step.writes:
        return None
    return max((step.reads + step.writes) / float(rate), step.download / (network_mb * 1e6))
