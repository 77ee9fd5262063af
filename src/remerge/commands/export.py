"""Write a recipe as mergekit YAML, where mergekit can do what it says.

remerge export                          # the recipe in use
remerge export conf/recipe/mine.yaml > mine.yml
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument(
        "recipe", nargs="?", type=Path, default=Path("params.yaml"), metavar="FILE",
        help="a file with a `recipe:` (default: params.yaml)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Run the command; return its exit status."""
    from remerge.errors import RecipeError
    from remerge.recipes.mergekit.exporting import exported
    from remerge.recipes.schema import read_recipe
    from remerge.yaml_text import read_yaml

    try:
        value = read_yaml(options.recipe)
    except OSError as error:
        raise RecipeError(f"{options.recipe}: {error.strerror}") from None
    except ValueError as error:
        raise RecipeError(f"{options.recipe}: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict) or "recipe" not in value:
        raise RecipeError(f"{options.recipe}: holds no recipe")
    print(exported(read_recipe(value["recipe"])), end="")
