"""The model card: a README in the hub's format, written from the build.

>>> write_text("report/README.md", card(build))

The head is the hub's metadata (https://huggingface.co/docs/hub/model-cards): licence, the models it
was made of, tags, results. What the recipe assumes is said as such, and so is that the model is a
reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from remerge.errors import printable
from remerge.prompts import ALPACA
from remerge.report.build import Build, origin
from remerge.report.markup import decimal, percent, points, size
from remerge.report.origins import listed_sources, rebuild_commands, shown
from remerge.report.page import summary
from remerge.report.scores import best_donor
from remerge.report.sizes import quality_of, weights_of

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
_TO_ESCAPE = "\\`*_{}[]<>#|~!"


def card(build: Build) -> str:
    """The whole README: YAML between `---` lines, then Markdown."""
    head = yaml.safe_dump(
        metadata(build), sort_keys=False, allow_unicode=False, default_flow_style=False, width=10**9
    )
    sections = [
        f"# {_text(build.title)}",
        *_introduction(build),
        *_prompt(build),
        *_recipe(build),
        *_scores(build),
        *_published(build),
        *_formats(build),
        *_rebuild(build),
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
        head["license_name"] = _slug(licence)
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
    if final is None:
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


def _text(value: object, limit: int = 400) -> str:
    """Text that Markdown takes for text, on one line."""
    return "".join(f"\\{c}" if c in _TO_ESCAPE else c for c in printable(value, limit))


def _code(value: object, limit: int = 400) -> str:
    """Text as code; a backtick within becomes an apostrophe, and a bar no end of a table's cell."""
    return f"`{printable(value, limit).replace('`', chr(39)).replace('|', '/')}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table whose first `texts` columns are text, the others numbers."""
    lines = [head, ["---" if i < texts else "---:" for i in range(len(head))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
        ("model id", _code(build.final["model_id"])),
        ("weights", f"{weights} in {len(build.final['tensors'])} tensors, {size(total)}"),
        ("type", _code(build.recipe["dtype"])),
        ("class", _text(build.final["class"])),
    ]
    return [*told, _table(["", ""], [[f"**{name}**", value] for name, value in facts], 2)]


def _prompt(build: Build) -> list[str]:
    kind = build.recipe.get("prompt") or "alpaca"
    if kind == "alpaca":
        return ["## Prompt", "Alpaca:", _fence(ALPACA.rstrip("\n"))]
    if kind == "raw":
        return ["## Prompt", "None: the model goes on with the text that it is given."]
    return ["## Prompt", _fence(str(kind))]


def _fence(text: str) -> str:
    lines = [printable(line, 400).replace("```", "'''") for line in text.splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```"


def _recipe(build: Build) -> list[str]:
    rows = [
        [_text(role), _text(name), _code(origin(entry)), _text(entry.get("licence") or "not known")]
        for role, name, entry in listed_sources(build)
    ]
    donors = [
        [
            part.upper(),
            _text(donor["name"]),
            shown(build.ties["density"] if donor.get("density") is None else donor["density"]),
            shown(donor.get("weight", 1.0)),
            _text(donor.get("vocabulary") or ""),
        ]
        for part, donor in build.donors()
    ]
    settings = [
        [_code(f"{group}.{key}"), _code(shown(value))]
        for group, section in (("ties", build.ties), ("gradient", build.gradient))
        for key, value in section.items()
    ]
    told = [
        "## Recipe",
        _table(["role", "source", "pinned at", "licence"], rows, 4),
        _HOW,
        _table(["part", "donor", "density", "weight", "vocabulary"], donors, 2),
        _table(["setting", "value"], settings, 2),
    ]
    assumed = build.assumptions
    if assumed:
        listed = "\n".join(f"- {_text(entry)}" for entry in assumed)
        told += ["### What is assumed", listed]
    return told


def _scores(build: Build) -> list[str]:
    if not build.scored:
        return []
    columns = [*build.tasks, "mean"]
    rows = []
    for model in build.scored:
        values = [model.score(task) for task in columns]
        name = _text(build.title if model.role == "final" else model.name)
        rows.append(
            [
                f"**{name}**" if model.role == "final" else name,
                *("" if value is None else percent(value) for value in values),
            ]
        )
    told = [
        "## Scores",
        f"Suite {_code(build.suite.name)}, percent, computed in {build.suite.dtype}.",
        _table(["model", *map(_text, columns)], rows),
    ]
    final, best = next(iter(build.role("final")), None), best_donor(build, "mean")
    if final is not None and best is not None:
        gained = points((final.score("mean") or 0.0) - (best.score("mean") or 0.0))
        told.append(f"In the mean {gained} points against the best donor, {_text(best.name)}.")
    notes = "\n".join(f"- {_text(note)}" for note in build.suite.notes)
    return [*told, notes] if notes else told


def _published(build: Build) -> list[str]:
    told = []
    verdicts = {True: "within", False: "outside"}
    for model, rows in build.published():
        body = [
            [
                _text(row["task"]),
                f"{row['published']:.2f}",
                f"{row['rebuilt']:.2f}",
                f"{row['difference']:+.2f}",
                verdicts[row["within"]] if row["comparable"] else "not comparable",
            ]
            for row in rows
        ]
        head = ["task", "published", "rebuilt", "difference", f"{build.suite.tolerance:g} point"]
        told += [f"### {_text(model)}: published against rebuilt", _table(head, body)]
    return told


def _formats(build: Build) -> list[str]:
    if not build.formats:
        return []
    rows = []
    for name, manifest in build.formats.items():
        quality = quality_of(manifest)
        rows.append(
            [
                _code(name),
                _text(manifest.get("runtime", "")),
                _text(manifest.get("class", "")),
                _code(manifest.get("sha256", "")),
                size(manifest["size"]),
                f"{manifest['bits_per_weight']:.2f}",
                decimal(quality["perplexity"], 5) if quality else "",
            ]
        )
    head = ["format", "runs in", "class", "SHA-256", "size", "bits a weight", "perplexity"]
    return ["## Formats", _table(head, rows, 4)]


def _rebuild(build: Build) -> list[str]:
    commands = "\n".join(rebuild_commands(build))
    return [
        "## Rebuild and verify",
        "In a checkout of the project that made this, with its locked environment:",
        f"```sh\n{commands}\n```",
        f"`remerge id` must print {_code(build.final['model_id'])}. {_ID}",
    ]


def _licences(build: Build) -> list[str]:
    gathered: dict[str, list[str]] = {}
    for _, name, entry in listed_sources(build):
        names = gathered.setdefault(str(entry.get("licence") or "not known"), [])
        if name not in names:
            names.append(name)
    listed = [f"- {_text(lic)}: {_text(', '.join(names))}" for lic, names in gathered.items()]
    return [
        "## Licences",
        f"This model: {_text(build.recipe.get('licence') or 'not known')}. Its sources:",
        "\n".join(listed),
    ]
