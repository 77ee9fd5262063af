"""Fill the marked blocks of README.md from what the build made: `python docs/readme.py [--check]`.

The picture comes from `dvc dag`, the tables from `results.json`: a README that is typed by hand is
true only on the day it is typed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_EDGE = re.compile(r'"([^"]+)" -> "([^"]+)"')


def picture() -> str:
    """`dvc dag` with the items of a stage drawn as one box, as Mermaid."""
    dot = subprocess.run(
        ["dvc", "dag", "--dot"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    edges: list[tuple[str, str]] = []
    for source, target in _EDGE.findall(dot):
        edge = (source.partition("@")[0], target.partition("@")[0])
        if edge not in edges and edge[0] != edge[1]:
            edges.append(edge)
    merging = ["fetch", "bake_loras", "ties_p1", "ties_p2", "gradient"]
    order = [*merging, "quantize_eval", "collect", "report"]
    edges.sort(key=lambda edge: (order.index(edge[0]), order.index(edge[1])))
    return "\n".join(["```mermaid", "flowchart LR", *(f"  {a} --> {b}" for a, b in edges), "```"])


def merge(metrics: dict[str, Any]) -> str:
    """By skill the base, the best donor and the result; at most twelve rows."""
    table: dict[str, dict[str, float]] = metrics["scores"]
    donors = [name for name in table if name not in ["base", "p1", "p2", "final"]]
    skills = sorted(skill for skill in table["final"] if skill != "mean")[:9]
    lines = ["| skill | base | best of the donors | merged | against the base |"]
    lines.append("|---|---:|---:|---:|---:|")
    for skill in [*skills, "mean"]:
        best = max(donors, key=lambda name, s=skill: table[name][s])  # type: ignore[misc]
        base, top, reached = (100 * table[name][skill] for name in ("base", best, "final"))
        name = "**all, in the mean**" if skill == "mean" else skill
        cells = [f"{base:.0f}", f"{top:.0f} ({best})", f"**{reached:.0f}**"]
        lines.append(f"| {name} | {' | '.join(cells)} | {reached - base:+.0f} |")
    return "\n".join(lines)


def scores(metrics: dict[str, Any]) -> str:
    """Models by skills; the best donor of each skill in bold."""
    table: dict[str, dict[str, float]] = metrics["scores"]
    merges = ["p1", "p2", "final"]
    donors = [name for name in table if name not in ["base", *merges]]
    skills = sorted({skill for row in table.values() for skill in row if skill != "mean"})
    lines = ["| model | " + " | ".join([*skills, "mean"]) + " |"]
    lines.append("|---|" + "---:|" * (len(skills) + 1))
    for name in ["base", *donors, *merges]:
        row = table[name]
        cells = [
            f"**{row[s]:.2f}**"
            if name in donors and row[s] == max(table[donor][s] for donor in donors)
            else f"{row[s]:.2f}"
            for s in skills
        ]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{row['mean']:.3f}"]) + " |")
    return "\n".join(lines)


def formats(metrics: dict[str, Any], runtimes: dict[str, str]) -> str:
    """The quantised formats with what they cost."""
    head = "format, class, bits a weight, size, perplexity, divergence, same token, runs in"
    lines = [f"| {head.replace(', ', ' | ')} |", "|---|---|---:|---:|---:|---:|---:|---|"]
    for name, row in metrics["formats"].items():
        lost = [
            shown.format(factor * row[key]) if key in row else ""
            for key, factor, shown in (
                ("perplexity", 1, "{:.4f}"),
                ("divergence", 1000, "{:.3f}"),
                ("agreement", 100, "{:.1f} %"),
            )
        ]
        cells = [name, row["class"], f"{row['bits_per_weight']:.2f}", f"{row['size'] / 1e6:.2f} MB"]
        lines.append(f"| {' | '.join([*cells, *lost, runtimes[name]])} |")
    references = {row.get("reference_perplexity") for row in metrics["formats"].values()} - {None}
    if len(references) == 1:
        lines += [
            "",
            f"Unquantised: perplexity {references.pop():.4f}. Divergence in thousandths of a nat.",
        ]
    return "\n".join(lines)


def filled(text: str) -> str:
    """`text` with every block between `<!-- name -->` and `<!-- /name -->` made anew."""
    from remerge.quantize.formats import FORMATS

    metrics = json.loads((ROOT / "results.json").read_text())
    runtimes = {name: entry.runtime for name, entry in FORMATS.items()}
    blocks = {
        "pipeline": picture(),
        "merge": merge(metrics),
        "scores": scores(metrics),
        "formats": formats(metrics, runtimes),
    }
    for name, block in blocks.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda match, b=block: f"{match[1]}{b}\n{match[2]}", text)
    return text


def main() -> None:
    """The command line."""
    path = ROOT / "README.md"
    text = path.read_text()
    new = filled(text)
    if "--check" in sys.argv[1:]:
        sys.exit("error: README.md is out of date; run `make readme`" if new != text else 0)
    path.write_text(new)


if __name__ == "__main__":
    main()
