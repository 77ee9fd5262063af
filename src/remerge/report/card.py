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
from remerge.report.markdown import code, fence, table, text
from remerge.report.markup import size
from remerge.report.origins import listed_sources, shown
from remerge.report.page import summary
from remerge.report.sizes import weights_of
from remerge.vocabulary.prompts import ALPACA

#: Licences that the hub knows by a name of its own, of those that models carry.
_HUB_LICENCES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "llama2", "llama3", "gpl-3.0", "agpl-3.0", "openrail", "unknown", "other",
}  # fmt: skip
_HOW = (
    "LoRAs are baked in at full strength. Each part is a TIES merge (arXiv 2306.01708) into the "
    "base; the result is a gradient merge of P1 and P2, the ratio being the share of P2."
)
_ID = (
    "The id is a digest of the names, types, shapes and bytes of all tensors, so it does not "
    "change with the files they lie in."
)
#: The file beside the card that `licences` is the text of.
LICENCES_NAME = "LICENSE.md"


def card(build: Build) -> str:
    """The whole README: YAML between `---` lines, then Markdown."""
    head = yaml.safe_dump(
        metadata(build), sort_keys=False, allow_unicode=False, default_flow_style=False, width=10**9
    )
    sections = [
        f"# {text(build.title)}",
        *_introduction(build),
        *_prompt(build),
        *_recipe(build),
        *scores(build),
        *published(build),
        *formats(build),
        *_rebuild(build),
        "## Licences",
        *_licences(build),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(sections) + "\n"


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


def _introduction(build: Build) -> list[str]:
    opening = (
        f"{summary(build)} Built by [remerge](#rebuild-and-verify): the same inputs and settings "
        "give the same bytes on every machine."
    )
    told = [opening]
    if build.assumptions:
        told.append(
            "**This is a reconstruction.** The author published which models were merged and how, "
            "but not every setting. What was not published is a choice of this recipe, listed "
            "under [What is assumed](#what-is-assumed); the weights need not equal the original's."
        )
    weights, total = weights_of(build.final)
    facts = [
        ("model id", code(build.final["model_id"])),
        ("weights", f"{weights} in {len(build.final['tensors'])} tensors, {size(total)}"),
        ("type", code(build.recipe["dtype"])),
        ("class", text(build.final["class"])),
    ]
    return [*told, table(["", ""], [[f"**{name}**", value] for name, value in facts], 2)]


def _prompt(build: Build) -> list[str]:
    kind = build.recipe.get("prompt") or "alpaca"
    if kind == "alpaca":
        return ["## Prompt", "Alpaca:", fence(ALPACA.rstrip("\n"))]
    if kind == "raw":
        return ["## Prompt", "None: the model goes on with the text that it is given."]
    return ["## Prompt", fence(str(kind))]


def _recipe(build: Build) -> list[str]:
    rows = [
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
    told = [
        "## Recipe",
        table(["role", "source", "pinned at", "licence"], rows, 4),
        _HOW,
        table(["part", "donor", "density", "weight", "vocabulary"], donors, 2),
        table(["setting", "value"], settings, 2),
    ]
    assumed = build.assumptions
    if assumed:
        listed = "\n".join(f"- {text(entry)}" for entry in assumed)
        told += ["### What is assumed", listed]
    return told


def _rebuild(build: Build) -> list[str]:
    commands = "\n".join(rebuild_commands(build))
    return [
        "## Rebuild and verify",
        "In a checkout of the project that made this, with its locked environment:",
        f"```sh\n{commands}\n```",
        f"`remerge id` must print {code(build.final['model_id'])}. {_ID}",
    ]


def licences(build: Build) -> str:
    """The licences of the model and of everything that it was made of, as a file of its own."""
    return "\n\n".join([f"# Licences of {text(build.title)}", *_licences(build)]) + "\n"


def _licences(build: Build) -> list[str]:
    gathered: dict[str, list[str]] = {}
    for _, name, entry in listed_sources(build):
        names = gathered.setdefault(str(entry.get("licence") or "not known"), [])
        if name not in names:
            names.append(name)
    listed = [f"- {text(lic)}: {text(', '.join(names))}" for lic, names in gathered.items()]
    return [
        f"This model: {text(build.recipe.get('licence') or 'not known')}. Its sources:",
        "\n".join(listed),
    ]
