"""Choose the recipe in use, with values of its parameters, and compose params.yaml.

  remerge use                              # show the recipe in use and what was chosen
  remerge use mine                         # from now on `dvc exp run` builds conf/recipe/mine.yaml
  remerge use mine ties.density=0.5 gradient=inverted
  remerge use mine ~ties.density           # give that value up again

The choice is written into conf/config.yaml, whose comments stay, and params.yaml is composed of it.
`dvc exp run -S …` starts from the choice, queued or not. What is not named stays as it was.
"""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe of conf/recipe")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="an option of a group (gradient=inverted), a value (ties.density=0.5), or ~KEY",
    )


def run(options: argparse.Namespace) -> int:
    """Show or change the choice; return the exit status."""
    from pathlib import Path

    from remerge.errors import RecipeError
    from remerge.files import write_text
    from remerge.recipes.choice import read_choice

    config = Path("conf/config.yaml")
    try:
        text = config.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(getattr(error, "strerror", "") or error).split())
        raise RecipeError(f"{config}: {reason}; run this in a project's folder") from None
    if options.recipe is None:
        _show(read_choice(text))
        return 0
    changed = _changed(text, options.recipe, options.settings)
    params = _composed(changed)
    write_text(config, changed)
    write_text(Path("params.yaml"), params)
    _show(read_choice(changed))
    print("wrote conf/config.yaml and params.yaml; build with `dvc repro` or `dvc exp run`")
    return 0


def _changed(text: str, recipe: str, settings: list[str]) -> str:
    """The text of conf/config.yaml with the choice."""
    from pathlib import Path

    from remerge.errors import RecipeError, printable
    from remerge.recipes.choice import parse_setting, with_choice
    from remerge.schema import nearest

    groups: dict[str, object] = {"recipe": recipe}
    values: dict[str, object] = {}
    dropped = []
    recipes = sorted(path.stem for path in Path("conf/recipe").glob("*.yaml"))
    if recipe not in recipes:
        raise RecipeError(
            f"conf/recipe has no {printable(recipe, 80)!r}{nearest(recipe, recipes) or ';'} "
            f"it has {', '.join(recipes)}"
        )
    for setting in settings:
        if setting.startswith("~"):
            dropped.append(setting[1:])
            continue
        key, value = parse_setting(setting)
        is_group = "." not in key and (Path("conf") / key).is_dir() and key != "pins"
        (groups if is_group else values)[key] = value
    return with_choice(text, groups, values, dropped)


def _composed(config: str) -> str:
    """What conf/ composes to with another config.yaml; nothing is changed if it does not."""
    import shutil
    import tempfile
    from pathlib import Path

    from remerge.commands.common import compose

    with tempfile.TemporaryDirectory(prefix="remerge") as folder:
        conf = Path(folder) / "conf"
        shutil.copytree("conf", conf, symlinks=True)
        (conf / "config.yaml").write_text(config)
        return compose([], conf)


def _show(choice: object) -> None:
    import json

    from remerge.recipes.choice import Choice

    assert isinstance(choice, Choice)
    print(f"recipe {choice.options.get('recipe')}")
    for key, value in [*choice.options.items(), *choice.values.items()]:
        if key != "recipe":
            print(f"  {key}={value if isinstance(value, str) else json.dumps(value)}")
