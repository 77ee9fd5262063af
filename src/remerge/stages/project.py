"""Parameters of a project whose stages are the nodes of its recipe, read before a stage runs."""

from __future__ import annotations

from pathlib import Path

from remerge.errors import RecipeError
from remerge.recipes.project import Project, code_digests, read_project
from remerge.recipes.schema import Execution, Recipe
from remerge.stages.composed import require_composed
from remerge.yaml_text import read_yaml


def project(path: Path = Path("params.yaml")) -> tuple[Recipe, Execution, Project]:
    """Read recipe, execution and derived tables.

    Raises:
        RecipeError: The first entry that is wrong, parameters that conf/ does not compose to, or a
            package that is not the one they were composed with.
    """
    try:
        params = read_yaml(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path}: {reason}; compose it with `remerge sync`") from None
    if not isinstance(params, dict):
        raise RecipeError(f"{path}: is empty; compose it with `remerge sync`")
    found = read_project(params)
    require_composed(params, path.parent)
    if found[2].code != code_digests():
        raise RecipeError(
            "params.yaml was composed with another version of remerge: install the one that "
            "requirements.txt names, or run `remerge sync` to go on with this one"
        )
    return found
