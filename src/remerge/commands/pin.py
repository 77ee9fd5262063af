"""Pin the sources of a recipe: resolve refs and short ids to commits, fill in sizes and digests.

  remerge pin                           # the recipe that params.yaml is composed from
  remerge pin stheno_l2_13b             # fill in what is missing, keep what is pinned
  remerge pin stheno_l2_13b --check     # do the pins hold, and what has moved since?
  remerge pin stheno_l2_13b chronos --update   # take what the branch stands at now
  remerge pin merge.yml                 # a mergekit file: its models of the hub, in merge.pins.yaml

RECIPE is a recipe or suite of conf/, a YAML file with `sources`, or a mergekit file. The files of
conf/pins for it and its suite are rewritten with their comments; weights are not downloaded. A
source without a revision is resolved by its `ref`, or `main`. HF_ENDPOINT and HF_TOKEN count.
A source with a `path` is a folder on disk (absolute, from ~, or below this project): its files are
hashed and their sizes and digests written.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument(
        "recipe", metavar="RECIPE", nargs="?", help="default: the recipe and suite of params.yaml"
    )
    parser.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="of a mergekit file: where models lie that need no pin, as for `remerge merge`",
    )
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="only these (default: all)")
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--check",
        action="store_true",
        help="write nothing; status 1 when a source is not pinned or a pin does not hold",
    )
    either.add_argument(
        "--update", action="store_true", help="resolve the ref again where a commit is pinned"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from remerge.pins.pin import check_files, pin_files, sources_files
    from remerge.recipes.mergekit.reading import is_mergekit

    names = [options.recipe] if options.recipe else _composed()
    merged = options.recipe is not None and is_mergekit(Path(options.recipe))
    if merged:
        paths = [_with_entries(Path(options.recipe), options.models, write=not options.check)]
    else:
        paths = list(dict.fromkeys(path for name in names for path in sources_files(name)))
    if options.check:
        report = check_files(paths, options.sources)
    else:
        report = pin_files(paths, options.sources, update=options.update)
    for line in report.lines:
        print(line)
    if report.written:
        files = " and ".join(map(str, report.written))
        again = "compose params.yaml again (`make params`, or `remerge sync`) and commit all of it"
        if merged:
            again = "`remerge merge` takes these models from the hub, and keeps them"
        print(f"wrote {files}; {again}")
    return 1 if report.broken else 0


def _with_entries(config: Path, models: Path | None, *, write: bool) -> Path:
    """The file of pins of a mergekit file, with an entry for every model of the hub."""
    from functools import partial

    from remerge.commands.merge import folder_in
    from remerge.errors import RecipeError
    from remerge.files import write_text
    from remerge.recipes.hub_models import hub_uses, pins_path, pins_text
    from remerge.recipes.mergekit.reading import read_merges

    uses = hub_uses(read_merges(config, lenient=True), partial(folder_in, models))
    if not uses:
        raise RecipeError(f"{config}: names no model of the hub that is no folder here")
    path = pins_path(config)
    known = path.read_text() if path.exists() else ""
    text = pins_text(uses, known)
    if text != known and not write:
        raise RecipeError(f"{path}: lacks models of {config.name}; run `remerge pin` on that file")
    if text != known:
        write_text(path, text)
    return path


def _composed() -> list[str]:
    """The recipe that params.yaml is composed from, and its suite where that has sources."""
    from remerge.commands.common import read_composed, read_params
    from remerge.errors import RecipeError
    from remerge.recipes.schema import pins_names, read_recipe

    composed = read_composed()
    if isinstance(composed, dict) and "nodes" in composed:  # a project with a stage a node
        return pins_names(read_recipe(composed.get("recipe")))
    params = read_params()
    names = [params["recipe"].get("name")]
    if any(entry.get("kind") == "dataset" for entry in params["recipe"]["sources"].values()):
        names.append((params.get("eval") or {}).get("suite"))
    if None in names:
        raise RecipeError("params.yaml: names no recipe or no suite; name a recipe")
    return list(map(str, names))
