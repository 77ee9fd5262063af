"""Make a project of your own for a recipe: git and DVC, a stage a node, in a folder of its own.

  remerge new my --from ties.yml     # a mergekit file, of one document or several
  remerge new my                     # with a recipe to fill in
  cd my; remerge pin; remerge sync; dvc repro

`remerge pin` looks up what each model is; `remerge sync` brings params.yaml and dvc.yaml up to an
edited recipe or new pins. The project calls the installed remerge and needs no copy of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("folder", type=Path, help="folder to make; must not exist")
    parser.add_argument(
        "--from",
        dest="origin",
        type=Path,
        metavar="CONFIG",
        help="a mergekit file, or a recipe such as conf/recipe/mine.yaml",
    )
    parser.add_argument("--name", help="name of the recipe (default: that of the folder)")
    parser.add_argument("--result", metavar="NAME", help="of several documents, the one to make")
    parser.add_argument(
        "--ignore-ineffective",
        dest="lenient",
        action="store_true",
        help="leave out what mergekit drops in silence, with a line for each",
    )


def run(options: argparse.Namespace) -> None:
    """Run the command; return its exit status."""
    from remerge.commands.sync import compose_params
    from remerge.errors import RecipeError
    from remerge.recipes.mergekit.importing import name_of
    from remerge.recipes.new_project import project_files, write_project
    from remerge.shards.artefact import require_new

    folder: Path = options.folder
    require_new(folder)
    name = options.name or name_of(folder.resolve())
    recipe, origin = _recipe(options, name, folder)
    files = project_files(recipe, name, origin)
    made = not folder.exists()
    write_project(folder, files)
    try:
        if not _inside_git(folder):
            _call(folder, "git", "init", "--quiet")
        _call(folder, "dvc", "init", "--quiet", *(["--subdir"] if not _is_root(folder) else []))
        for key, value in _DVC.items():
            _call(folder, "dvc", "config", key, value)
        compose_params(folder)
    except RecipeError:
        if made:
            import shutil

            shutil.rmtree(folder, ignore_errors=True)
        raise
    print(f"{folder}: the recipe is conf/recipe/{name}.yaml")
    print(f"next: cd {folder}; remerge pin; remerge sync; dvc repro")


#: Settings of DVC in a new project.
_DVC = {
    "core.analytics": "false",
    "core.check_update": "false",
    "core.autostage": "false",
    "cache.type": "hardlink,copy",
    "hydra.enabled": "true",
}


def _recipe(options: argparse.Namespace, name: str, folder: Path) -> tuple[dict[str, Any], str]:
    """The recipe of the project, its models found from the project's folder."""
    from remerge.errors import RecipeError
    from remerge.recipes.mergekit.importing import imported
    from remerge.recipes.mergekit.reading import read_merges
    from remerge.recipes.planning import result_of
    from remerge.yaml_text import read_documents

    if options.origin is None:
        return _example(name), "nothing yet"
    try:
        first = read_documents(options.origin)
    except OSError as error:
        raise RecipeError(f"{options.origin}: {error.strerror}") from None
    except ValueError as error:
        raise RecipeError(f"{options.origin}: {' '.join(str(error).split())}") from None
    value = first[0].value if len(first) == 1 else None
    if isinstance(value, dict) and isinstance(value.get("recipe"), dict):
        recipe = {**value["recipe"], "name": name}
        recipe.pop("pins", None)
    else:
        merges = read_merges(options.origin, lenient=options.lenient)
        recipe = imported(merges, name, result_of(merges, options.result))
    return _moved(recipe, folder), options.origin.name


def _moved(value: Any, folder: Path) -> Any:
    """A recipe whose relative paths are read from here, as read from the project's folder."""
    if isinstance(value, dict):
        return {key: _moved(entry, folder) for key, entry in value.items()}
    if isinstance(value, list):
        return [_moved(entry, folder) for entry in value]
    if isinstance(value, str) and value.startswith(("./", "../")):
        return str(Path(value).resolve())
    return value


def _example(name: str) -> dict[str, Any]:
    models = {"first": {"model": "owner/first"}, "second": {"model": "owner/second"}}
    node = {"method": "linear", "models": models, "weight": 0.5}
    return {"name": name, "dtype": "bfloat16", "merges": {"final": node}, "result": "final"}


def _inside_git(folder: Path) -> bool:
    return any((above / ".git").exists() for above in [folder.resolve(), *folder.resolve().parents])


def _is_root(folder: Path) -> bool:
    return (folder / ".git").exists()


def _call(folder: Path, *command: str) -> None:
    import subprocess
    import sys

    from remerge.errors import ToolError, printable

    words = [sys.executable, "-P", "-m", *command] if command[0] == "dvc" else list(command)
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ToolError(f"{command[0]} is not installed") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if "No module named dvc" in said:
            said = 'DVC is not installed: pip install "remerge[pipeline]"'
        raise ToolError(f"{' '.join(command[:2])}: {printable(said, 300)}")
