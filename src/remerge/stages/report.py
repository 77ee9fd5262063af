"""report: `metrics.json` and `results.json` of what was measured; page, plots, card, provenance."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remerge.files import write_text
from remerge.proof.lineage import read_lineage, read_materials
from remerge.proof.provenance import write_provenance
from remerge.recipes.described import described, pins_of
from remerge.report.card import LICENCES_NAME, card, licences
from remerge.report.collect import collect, metrics, read_collected, results
from remerge.report.experiments import kept_place, read_kept
from remerge.report.page import page
from remerge.report.plots import plots
from remerge.stages.composed import KEY
from remerge.stages.params import read_params
from remerge.stages.running import run
from remerge.tensors.json_files import write_json
from remerge.yaml_text import read_yaml

CONF = Path("conf")


def report() -> Path:
    """Write `metrics.json`, `results.json` and `report/`, which is returned."""
    composed_params = read_params().whole
    params = described(composed_params, pins_of(composed_params))
    build = collect(params, overrides(composed_params))
    write_json("metrics.json", metrics(build))
    write_json("results.json", results(build))
    folder = Path("report")
    shutil.rmtree(folder, ignore_errors=True)
    write_text(
        folder / "index.html",
        page(build, read_kept(kept_place(params["recipe"]["name"]), composed_params["pins"])),
    )
    write_text(folder / "README.md", card(build))
    write_text(folder / LICENCES_NAME, licences(build))
    for name, rows in plots(build).items():
        write_json(folder / "plots" / f"{name}.json", rows)
    materials = read_materials(Path(), params)
    lineage = read_lineage(Path(), params, materials=materials, collected=read_collected(params))
    write_provenance(lineage, folder)
    return folder


def overrides(params: Mapping[str, Any]) -> tuple[str, ...]:
    """What to type after `-S` to compose `params` again, the recipe first."""
    given = [str(override) for override in params[KEY]["overrides"]]
    if any(override.startswith("recipe=") for override in given):
        return tuple(given)
    defaults = read_yaml(CONF / "config.yaml")["defaults"]
    chosen = next(entry["recipe"] for entry in defaults if "recipe" in entry)
    return (f"recipe={chosen}", *given)


if __name__ == "__main__":
    run(report)
