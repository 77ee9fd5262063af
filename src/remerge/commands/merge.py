"""Run a mergekit YAML file: every method, exact to the bit, streamed and resumed.

  remerge merge ties.yml merged/ties
  remerge merge ties.yml merged/ties --models ~/models     # owner/name lies in ~/models/owner/name

Models are folders of safetensors, named by their path, or models of the hub that `remerge pin
ties.yml` has pinned in ties.pins.yaml: these are fetched and verified once. A document with a
`name:` is a model for the others and is computed on the way. Mistakes are named with file and line
before work starts. What is printed is the model id: the same file and models give the same one on
every machine.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remerge.commands.common import (
    add_dequantize_option,
    add_work_options,
    build_options,
    parse_size,
    plain_folders,
)

if TYPE_CHECKING:
    from remerge.recipes.planning import Find
    from remerge.sources.pinned import Source
    from remerge.sources.plain_folders import PlainFolders


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("config", type=Path, help="mergekit YAML, of one document or several")
    parser.add_argument("out", type=Path, help="folder to make; must not exist")
    parser.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="where models lie that are named owner/name or name (default: here)",
    )
    parser.add_argument(
        "--result",
        metavar="NAME",
        help="of several documents, the one to make (default: the one that no other uses)",
    )
    parser.add_argument(
        "--ignore-ineffective",
        dest="lenient",
        action="store_true",
        help="pass over keys and parameters that mergekit drops in silence, with a line for each; "
        "without it they are errors",
    )
    parser.add_argument(
        "--by-row",
        action="store_true",
        help="merge embeddings row by row, whatever tokens the tokenizers have there; without it "
        "models with other tokens are an error",
    )
    add_work_options(parser, shard_size="5GB", out="OUT")
    add_dequantize_option(parser)


def run(options: argparse.Namespace) -> None:
    """Run the command; return its exit status."""
    from remerge.errors import printable
    from remerge.recipes.mergekit.reading import read_merges
    from remerge.recipes.planning import Settings, planned
    from remerge.shards.artefact import build, require_new

    require_new(options.out)
    settings = build_options(options)
    merges = read_merges(options.config, lenient=options.lenient)
    with ExitStack() as opened:
        plain = opened.enter_context(plain_folders(options, settings))
        how = Settings(
            find=_finder(options, settings, plain),
            scratch=settings["scratch"],
            shard_bytes=parse_size(options.shard_size),
            by_row=options.by_row,
            result=options.result,
        )
        found = opened.enter_context(planned(merges, how))
        for note in found.notes:
            print(f"note: {printable(note, 500)}", file=sys.stderr)
        for name in found.unused:
            print(f"note: the result does not use document {printable(name)}", file=sys.stderr)
        manifest = build(
            found.plan,
            options.out,
            companions=found.companions,
            config_changes=found.config_changes,
            **settings,
        )
    print(f"{manifest['model_id']}  {options.out}")


def _finder(options: argparse.Namespace, settings: dict[str, Any], plain: PlainFolders) -> Find:
    """Find models in folders first, then among those that are pinned beside the file."""
    from remerge.recipes.hub_models import HubModels, pins_path
    from remerge.recipes.pins import read_pins_file

    def here(text: str, revision: str | None) -> Path | None:
        folder = folder_in(options.models, text, revision)
        return folder if folder is None else plain.folder(folder)

    path = pins_path(options.config)
    if not path.is_file():
        return here
    pinned = HubModels(
        options.config,
        read_pins_file(path, str(path)),
        partial(_fetch, settings=settings, shard_bytes=parse_size(options.shard_size)),
        settings["scratch"] / "hub",
    )
    return lambda text, revision: here(text, revision) or pinned.find(text, revision)


def _fetch(source: Source, folder: Path, *, settings: dict[str, Any], shard_bytes: int) -> None:
    """Make the folder of a pinned model or adapter; one that is there must be that, undamaged."""
    from remerge.errors import SourceError
    from remerge.proof.check import check_folder
    from remerge.sources.files import open_files
    from remerge.sources.intake import take_in
    from remerge.tensors.json_files import read_json

    if folder.exists():
        problems = check_folder(folder, settings["threads"]).problems
        inputs = read_json(folder / "manifest.json").get("inputs")
        pins = {name: file.sha256 for name, file in source.files.items()}
        if problems or inputs != {source.name: {"files": pins}}:
            raise SourceError(f"{folder}: is not what was fetched; remove it and run this again")
        return
    with open_files(source, root=Path(), scratch=settings["scratch"]) as files:
        take_in(files, folder, shard_bytes=shard_bytes, **settings)
    print(f"note: {source.origin} is kept in {folder}", file=sys.stderr)


def folder_in(models: Path | None, path: str, revision: str | None) -> Path | None:
    """The folder that a reference names; a revision is that of a hub, so no folder has one."""
    if revision is not None:
        return None
    place = Path(path).expanduser()
    if models is not None and not path.startswith((".", "~")):
        place = models.expanduser() / place
    return place if place.is_dir() else None
