"""report: collect what the stages measured into `metrics.json`; report, card and provenance."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from remerge.atomic import write_json, write_text
from remerge.errors import RecipeError
from remerge.evaluate.suite import suite_from_params
from remerge.proof.lineage import digest_materials, read_lineage
from remerge.proof.provenance import write_provenance
from remerge.report.build import Build, Scored
from remerge.report.card import card
from remerge.report.page import page
from remerge.report.plots import plots
from remerge.tensors.checkpoint import read_json
from stages.params import Params, read_params
from stages.running import run

UNUSED = "conf/recipe/unused"
MERGES = ("p1", "p2", "final")
_KEPT = ("sha256", "size", "bits_per_weight", "class", "perplexity")


def report() -> None:
    """Write `metrics.json` and `report/` from the places that the recipe fills."""
    params = read_params()
    build = collect(params)
    write_json("metrics.json", metrics(build))
    folder = Path("report")
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / "index.html", page(build))
    write_text(folder / "README.md", card(build))
    for name, rows in plots(build).items():
        write_json(folder / "plots" / f"{name}.json", rows)
    write_provenance(read_lineage(Path(), params, materials=materials()), folder)


def materials() -> dict[str, str]:
    """SHA-256 of what the build was made with: all code, and the lock of packages."""
    code = [str(path) for path in Path("src").rglob("*.py")]
    return digest_materials(Path(), ["requirements/run.txt", *code])


def collect(params: Params) -> Build:
    """What the folders of the recipe hold."""
    return Build(
        recipe=params["recipe"],
        ties=params["ties"],
        gradient=params["gradient"],
        suite=suite_from_params(params["eval"]),
        scored=tuple(_scored(params)),
        formats={
            name: read_json(Path(folder) / "manifest.json")
            for name, folder in params["report"]["formats"].items()
            if folder != UNUSED
        },
        merges={name: read_json(Path("merged") / name / "manifest.json") for name in MERGES},
    )


def metrics(build: Build) -> dict[str, Any]:
    """What git keeps: rounded scores by model, size and digest of every quantised format."""
    return {
        "scores": {
            model.name: {**model.result["scores"], "mean": model.result["average"]}
            for model in build.scored
        },
        "formats": {
            name: {key: manifest[key] for key in _KEPT if key in manifest}
            for name, manifest in build.formats.items()
        },
    }


def _scored(params: Params) -> list[Scored]:
    """Scored models under the names that the recipe gives its donors."""
    parts = params["recipe"]["parts"]
    found = []
    for place, folder in params["report"]["scores"].items():
        if folder == UNUSED:
            continue
        part, _, donor = place.partition("_")
        name = parts[part][donor]["name"] if donor else place
        if name is None:
            raise RecipeError(f"report.scores.{place}: recipe.parts.{part}.{donor} has no donor")
        role = "donor" if donor else place if place in ("base", "final") else "part"
        result = read_json(Path(folder) / "scores.json")
        found.append(Scored(name, role, part if donor else "", result))
    return found


if __name__ == "__main__":
    run(report)
