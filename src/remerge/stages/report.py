"""report: what the stages measured into `metrics.json`; report, plots, card and provenance."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from remerge.files import write_text
from remerge.proof.lineage import read_lineage, read_materials
from remerge.proof.provenance import write_provenance
from remerge.recipes.described import described, pins_of
from remerge.report.card import LICENCES_NAME, card, licences
from remerge.report.collect import collect, metrics
from remerge.report.commands import overrides_of
from remerge.report.page import page
from remerge.report.plots import plots
from remerge.stages.compose import composed
from remerge.stages.params import read_params
from remerge.stages.running import run
from remerge.tensors.json_files import write_json

CONF = Path("conf")


def report() -> None:
    """Write `metrics.json` and `report/` from the places that the recipe fills."""
    composed_params = read_params().whole
    params = described(composed_params, pins_of(composed_params))
    build = collect(params, overrides(composed_params))
    write_json("metrics.json", metrics(build))
    folder = Path("report")
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / "index.html", page(build))
    write_text(folder / "README.md", card(build))
    write_text(folder / LICENCES_NAME, licences(build))
    for name, rows in plots(build).items():
        write_json(folder / "plots" / f"{name}.json", rows)
    write_provenance(read_lineage(Path(), params, materials=read_materials(Path(), params)), folder)


def overrides(params: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Overrides of `conf/` that compose to `params`."""
    options = {
        group.name: sorted(path.stem for path in group.glob("*.yaml"))
        for group in CONF.iterdir()
        if group.is_dir()
    }
    return overrides_of(params, lambda wanted: yaml.safe_load(composed(wanted)), options)


if __name__ == "__main__":
    run(report)
