"""An item of quantize_eval of a model anywhere on disk, and the parameters that it reads."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from remerge.recipes.schema import Execution, Quantize
from remerge.recipes.tables import Item
from remerge.schema import read_table
from remerge.stages.params import Params, read_params

ROOT = Path(__file__).resolve().parents[2]


def item(container: str, model: Path, out: Path) -> Item:
    """An item; `params.yaml` itself allows no folder outside of the project."""
    return Item.model_construct(section=f"digests.{container}", reads=str(model), out=str(out))


def with_settings(
    container: str, settings: dict[str, Any], execution: dict[str, Any] | None = None
) -> Params:
    """The committed parameters with these settings of one container."""
    params = _committed()
    table = {**params.whole["quantize"], container: settings}
    return replace(
        params,
        quantize=read_table(Quantize, table, "quantize"),
        execution=read_table(Execution, execution or {}, "execution"),
    )


@cache
def _committed() -> Params:
    return read_params(ROOT / "params.yaml")
