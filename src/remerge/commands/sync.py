"""Bring a project up to its recipe: params.yaml, the stages of dvc.yaml, entries for new sources.

  remerge sync              # in the folder of a project that `remerge new` made

Run it after an edit of the recipe, after `remerge pin`, and after another version of remerge was
installed. In dvc.yaml what you changed by hand stays; what cannot stay is said.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="default: here")


def run(options: argparse.Namespace) -> None:
    """Run the command; return its exit status."""
    import yaml

    from remerge.errors import RecipeError
    from remerge.files import write_text
    from remerge.recipes.new_project import pins_text, requirements, sync_stages
    from remerge.recipes.project import dvc_stages
    from remerge.recipes.schema import pins_names, read_recipe

    folder: Path = options.folder
    for name in ("conf/config.yaml", "dvc.yaml"):
        if not (folder / name).is_file():
            raise RecipeError(f"{folder / name}: is not there; make a project with `remerge new`")
    params = yaml.safe_load(compose_params(folder, write=False))
    recipe = read_recipe(params["recipe"])
    stages = folder / "dvc.yaml"
    synced = sync_stages(stages.read_text(), dvc_stages(recipe))
    pins = folder / "conf" / "pins" / f"{pins_names(recipe)[0]}.yaml"
    known = pins.read_text() if pins.is_file() else ""
    write_text(pins, pins_text(params["recipe"], known))
    write_text(stages, synced.text)
    write_text(folder / "requirements.txt", requirements())
    compose_params(folder)
    for line in synced.lines:
        print(line)
    print(f"{folder / 'params.yaml'} and {stages} are those of the recipe")


def compose_params(folder: Path, *, write: bool = True) -> str:
    """Compose the parameters of a project by the pipeline's own command.

    Raises:
        RecipeError: What does not compose.
    """
    from remerge.commands.common import compose
    from remerge.files import write_text

    text = compose([], folder / "conf")
    if write:
        write_text(folder / "params.yaml", text)
    return text
