"""`params.yaml`, read into typed objects before a stage does anything.

The whole was checked when it was composed (`stages.composition`), but the file may have been
edited since: every stage reads it by the schema again, so a mistake is one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from remerge.errors import RecipeError
from remerge.recipes.methods import GradientSection, TiesSection
from remerge.recipes.schema import Execution, Quantize, Recipe, read_recipe, read_section
from remerge.recipes.tables import Tables, read_tables
from remerge.schema import nearest, shown
from remerge.stages.composed import KEY, require_composed
from remerge.yaml_text import read_yaml

WRITTEN = ("recipe", "ties", "gradient", "eval", "quantize", "execution")
T = TypeVar("T")


@dataclass(frozen=True)
class Params:
    """The parameters.

    Attributes:
        whole: All of them, as YAML gives them; the suite `eval` is read by `evaluate.suite`.
        tables: What was derived when they were composed.
    """

    whole: Mapping[str, Any]
    recipe: Recipe
    ties: TiesSection
    gradient: GradientSection
    quantize: Quantize | None
    execution: Execution
    tables: Tables


def read_params(path: Path | str = "params.yaml") -> Params:
    """Read the parameters of the folder that `path` is in.

    Raises:
        RecipeError: The first entry that is wrong, or parameters that conf/ does not compose to.
    """
    try:
        params = read_yaml(Path(path))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path}: {reason}; compose it with `dvc exp run`") from None
    if not isinstance(params, dict):
        raise RecipeError(f"{path}: is empty; compose it with `dvc exp run`")
    checked = check_params(params)
    require_composed(params, Path(path).parent)
    return checked


def check_params(params: Mapping[str, Any]) -> Params:
    """Read parameters that YAML gives; RecipeError for an unknown key or a value out of range."""
    known = [*WRITTEN, *Tables.model_fields, KEY]
    for key in params:
        if key not in known:
            raise RecipeError(
                f"params.yaml: unknown key {shown(key)}{nearest(key, known) or ';'} "
                f"known are {', '.join(known)}"
            )
    quantize = params.get("quantize")
    return Params(
        whole=params,
        recipe=read_recipe(params.get("recipe")),
        ties=read_section(TiesSection, params, "ties"),
        gradient=read_section(GradientSection, params, "gradient"),
        quantize=None if quantize is None else read_section(Quantize, params, "quantize"),
        execution=read_section(
            Execution, {"execution": params.get("execution") or {}}, "execution"
        ),
        tables=read_tables(params),
    )


def item(section: Mapping[str, T], key: str, where: str) -> T:
    """One entry of a section that a stage was started for."""
    if key not in section:
        raise RecipeError(
            f"{where} has no {shown(key)}{nearest(key, section) or ';'} "
            f"it has {', '.join(section) or 'nothing'}"
        )
    return section[key]
