"""Turn a mergekit YAML file into a recipe of this project.

remerge import ties.yml > conf/recipe/mine.yaml
remerge import ties.yml --name mine --out conf/recipe/mine.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("config", type=Path, help="mergekit YAML, of one document or several")
    parser.add_argument("--name", help="name of the recipe (default: that of the file)")
    parser.add_argument("--out", type=Path, help="file to write (default: print it)")
    parser.add_argument(
        "--result", metavar="NAME", help="the document whose result is the recipe's"
    )
    parser.add_argument(
        "--ignore-ineffective",
        dest="lenient",
        action="store_true",
        help="leave out what mergekit drops in silence, with a line for each",
    )


def run(options: argparse.Namespace) -> None:
    """Run the command; return its exit status."""
    import sys

    from remerge.errors import RecipeError, printable
    from remerge.files import write_text
    from remerge.recipes.mergekit.importing import imported, name_of, recipe_text
    from remerge.recipes.mergekit.reading import read_merges
    from remerge.recipes.planning import result_of

    merges = read_merges(options.config, lenient=options.lenient)
    name = options.name or name_of(options.config)
    recipe = imported(merges, name, result_of(merges, options.result))
    for merge in merges:
        for note in merge.notes:
            print(f"note: {printable(note, 500)}", file=sys.stderr)
    text = recipe_text(recipe, options.config.name)
    if options.out is None:
        print(text, end="")
    elif options.out.exists():
        raise RecipeError(f"{options.out} exists; choose another place")
    else:
        write_text(options.out, text)
        print(options.out)
