"""The model card: a README in the hub's format, written from the build.

>>> write_text("report/README.md", card(build))

The head is the hub's metadata (https://huggingface.co/docs/hub/model-cards): licence, the models it
was made of, tags, results. What the recipe assumes is said as such, and so is that the model is a
reconstruction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from remerge.errors import printable
from remerge.report.build import Build, origin
from remerge.report.card_results import formats, published, scores
from remerge.report.commands import rebuild_commands
from remerge.report.markdown import Markdown, code, fence, table, text
from remerge.report.numbers import size
from remerge.report.origins import listed_sources, shown
from remerge.report.page import summary
from remerge.report.rendering import render
from remerge.report.scores import IN_ITS_OWN
from remerge.report.sizes import weights_of
from remerge.vocabulary.prompts import ALPACA

#: Licences that the hub knows by a name of its own, of those that models carry.
_HUB_LICENCES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "llama2", "llama3", "gpl-3.0", "agpl-3.0", "openrail", "unknown", "other",
}  # fmt: skip
#: The file beside the card that `licences` is the text of.
LICENCES_NAME = "LICENSE.md"


def card(build: Build) -> str:
    """The whole README: YAML between `---` lines, then Markdown."""
    head = yaml.safe_dump(
        metadata(build), sort_keys=False, allow_unicode=False, default_flow_style=False, width=10**9
    )
    body = render(
        "card.md.j2",
        build=build,
        summary=summary(build),
        facts=_facts(build),
        prompt=_prompt(build),
        recipe=_recipe(build),
        scores=scores(build),
        in_its_own=IN_ITS_OWN,
        published=published(build),
        formats=formats(build),
        rebuild=[Markdown(line) for line in rebuild_commands(build)],
        licenses=_licenses(build),
    )
    return f"---\n{head}---\n\n{body}"


def metadata(build: Build) -> dict[str, Any]:
    """The head of the card."""
    licence = str(build.recipe.get("licence") or "unknown")
    known = licence.lower() in _HUB_LICENCES
    repos = [str(entry["repo"]) for _, _, entry in listed_sources(build) if entry.get("repo")]
    head: dict[str, Any] = {"license": licence.lower() if known else "other"}
    if not known:
        head |= {"license_name": _slug(licence), "license_link": LICENCES_NAME}
    head |= {"language": ["en"], "library_name": "transformers", "pipeline_tag": "text-generation"}
    if repos:
        head |= {"base_model": list(dict.fromkeys(repos)), "base_model_relation": "merge"}
    head["tags"] = ["merge", "ties", "gradient-merge", "lora", "llama", "reproducible", "remerge"]
    results = _results(build)
    if results:
        head["model-index"] = [{"name": printable(build.title, 96), "results": results}]
    return head


def _slug(text: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in text.lower())
    return kept.strip("-")[:64] or "unknown"


def _results(build: Build) -> list[dict[str, Any]]:
    final = next(iter(build.role("final")), None)
    if final is None or build.limited:
        return []
    sources = build.recipe["sources"].values()
    repos = {Path(entry["out"]): entry for entry in sources if entry.get("kind") == "dataset"}
    results = []
    for benchmark in build.suite.benchmarks:
        value = final.score(benchmark.name)
        if value is None:
            continue
        entry = repos.get(benchmark.data, {})
        data = {
            "name": benchmark.name,
            "type": str(entry.get("repo") or f"{_slug(build.suite.name)}-{_slug(benchmark.name)}"),
        }
        if entry.get("revision"):
            data["revision"] = str(entry["revision"])
        metric = {
            "type": benchmark.metric,
            "value": round(100 * value, 2),
            "name": f"{benchmark.metric}, {benchmark.few_shot}-shot, percent",
        }
        results.append(
            {
                "task": {"type": "text-generation", "name": "Text generation"},
                "dataset": data,
                "metrics": [metric],
            }
        )
    return results


def _facts(build: Build) -> Markdown:
    weights, total = weights_of(build.final)
    facts = [
        ("model id", code(build.final["model_id"])),
        ("weights", f"{weights} in {len(build.final['tensors'])} tensors, {size(total)}"),
        ("type", code(build.recipe["dtype"])),
        ("class", text(build.final["class"])),
    ]
    return table(["", ""], [[f"**{name}**", value] for name, value in facts], 2)


def _prompt(build: Build) -> Markdown | None:
    """The prompt's template; None for a model that goes on with a text."""
    kind = build.recipe.get("prompt") or "alpaca"
    if kind == "raw":
        return None
    if kind == "alpaca":
        template = fence(ALPACA.rstrip("\n"))
        return Markdown(f"Alpaca:\n\n{template}")
    return fence(str(kind))


def _recipe(build: Build) -> dict[str, Markdown]:
    """Tables of the sources, the donors and the settings."""
    sources = [
        [text(role), text(name), code(origin(entry)), text(entry.get("licence") or "not known")]
        for role, name, entry in listed_sources(build)
    ]
    donors = [
        [
            part.upper(),
            text(donor["name"]),
            shown(build.ties["density"] if donor.get("density") is None else donor["density"]),
            shown(donor.get("weight", 1.0)),
            text(donor.get("vocabulary") or ""),
        ]
        for part, donor in build.donors()
    ]
    settings = [
        [code(f"{group}.{key}"), code(shown(value))]
        for group, section in (("ties", build.ties), ("gradient", build.gradient))
        for key, value in section.items()
    ]
    return {
        "sources": table(["role", "source", "pinned at", "license"], sources, 4),
        "donors": table(["part", "donor", "density", "weight", "vocabulary"], donors, 2),
        "settings": table(["setting", "value"], settings, 2),
    }


def licences(build: Build) -> str:
    """The licenses of the model and of everything that it was made of, as a file of its own."""
    body = render("licenses.md.j2", build=build, licenses=_licenses(build))
    return f"# Licenses of {text(build.title)}\n\n{body}"


def _licenses(build: Build) -> dict[str, list[str]]:
    """The names of the sources by license, in the order of their use."""
    gathered: dict[str, list[str]] = {}
    for _, name, entry in listed_sources(build):
        names = gathered.setdefault(str(entry.get("licence") or "not known"), [])
        if name not in names:
            names.append(name)
    return gathered
