"""Read what a report is about from the folders that the parameters name, and what git keeps of it.

>>> build = collect(params)
>>> write_json("metrics.json", metrics(build))
>>> write_json("results.json", results(build))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from remerge.errors import RecipeError, printable
from remerge.evaluate.suite import Suite, suite_from_params
from remerge.recipes.tables import UNUSED
from remerge.report.build import Build, Scored
from remerge.report.scores import best_donor
from remerge.report.sizes import quality_of, recommended
from remerge.tensors.json_files import read_json

MERGES = ("p1", "p2", "final")
_KEPT = ("model_id", "sha256", "size", "bits_per_weight", "class")
_MEASURED = ("perplexity", "reference_perplexity", "divergence", "agreement")


def collect(params: Mapping[str, Any], overrides: tuple[str, ...] | None = None) -> Build:
    """What the folders of the recipe hold, read in the project's root.

    RecipeError if two models were scored in ways that cannot stand in one table.
    """
    suite = suite_from_params(params["eval"])
    report = params["report"]
    found = read_collected(params)
    scored = [*_scored(params, found), *_quants(report["quants"], found)]
    _alike(suite, scored)
    return Build(
        recipe=params["recipe"],
        ties=params["ties"],
        gradient=params["gradient"],
        suite=suite,
        scored=tuple(scored),
        formats={name: found[folder]["stated"] for name, folder in report["formats"].items()},
        merges={name: read_json(Path("merged") / name / "manifest.json") for name in MERGES},
        overrides=overrides,
    )


def read_collected(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read what the stage `collect` wrote of every format and score, by folder."""
    path = params["report"]["collected"]
    return {} if path == UNUSED else read_json(Path(path))


def metrics(build: Build) -> dict[str, Any]:
    """The headline figures, few enough for a table of experiments.

    `mean` of the base, the best donor and the result, `bytes` of the format to run it in (the
    smallest where none is recommended), and the result's score by task under `final`.
    """
    best = best_donor(build, "mean")
    found: dict[str, Any] = {}
    final = next(iter(build.role("final")), None)
    known = {"base": next(iter(build.role("base")), None), "best_donor": best, "final": final}
    means = {name: model.result["average"] for name, model in known.items() if model is not None}
    if means:
        found["mean"] = means
    if build.formats:
        chosen = recommended(build) or min(build.formats, key=lambda n: build.formats[n]["size"])
        found["bytes"] = build.formats[chosen]["size"]
    if final is not None:
        found["final"] = dict(final.result["scores"])
    return found


def results(build: Build) -> dict[str, Any]:
    """All that git keeps: rounded scores by model; size, digest and loss of every format.

    Model ids too, so that `git log -S ID -- results.json` finds the commit that a model is of.
    `quants`, there where quants were scored in their own runtimes, belongs to the machine that did.
    """
    found: dict[str, Any] = {
        "models": {name: manifest["model_id"] for name, manifest in build.merges.items()},
        "scores": {m.name: _scores_of(m) for m in build.scored if m.role != "quant"},
        "formats": {
            name: {
                **{key: manifest[key] for key in _KEPT if key in manifest},
                **{k: quality_of(manifest)[k] for k in _MEASURED if k in quality_of(manifest)},
            }
            for name, manifest in build.formats.items()
        },
    }
    if quants := build.role("quant"):
        found["quants"] = {
            model.name: {"scores": _scores_of(model), "difference": build.against_final(model)}
            for model in quants
        }
    return found


def _scores_of(model: Scored) -> dict[str, float]:
    return {**model.result["scores"], "mean": model.result["average"]}


def _scored(params: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> Iterator[Scored]:
    """Scored models under the names that the recipe gives its donors."""
    parts = params["recipe"]["parts"]
    for place, folder in params["report"]["scores"].items():
        part, _, donor = place.partition("_")
        name = parts[part][donor]["name"] if donor else place
        if name is None:  # an experiment may drop a donor whose place is scored
            continue
        role = "donor" if donor else place if place in ("base", "final") else "part"
        answers = found[folder].get("answers", {})
        yield Scored(name, role, part if donor else "", found[folder]["stated"], answers)


def _quants(places: Mapping[str, str], found: Mapping[str, Mapping[str, Any]]) -> Iterator[Scored]:
    for name, folder in places.items():
        yield Scored(name, "quant", "", found[folder]["stated"])


def _alike(suite: Suite, scored: Sequence[Scored]) -> None:
    """RecipeError unless all were scored as the suite says; a quant's runtime has its own type."""
    wanted = {"suite": suite.name, "limit": suite.limit, "dtype": suite.dtype}
    for model in scored:
        settings = model.result["settings"]
        has = {"suite": model.result["suite"], **{k: settings[k] for k in ("limit", "dtype")}}
        for key, value in wanted.items():
            if has[key] != value and not (key == "dtype" and model.role == "quant"):
                raise RecipeError(
                    f"{model.name} was scored with {key} {printable(has[key])}, and eval says "
                    f"{printable(value)}: such scores cannot stand in one table; score it again "
                    "(dvc repro)"
                )
