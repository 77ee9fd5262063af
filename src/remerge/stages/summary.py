"""What a stage made, in one line: the folder, its size, how long it took, its model id or score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remerge.formatting import duration, size
from remerge.tensors.json_files import read_json


def summary(out: Path, seconds: float) -> str:
    """Describe a finished output.

    Args:
        out: The folder that a stage made.
        seconds: How long it took.

    Returns:
        The line.
    """
    return f"made {out}: {', '.join([*_facts(out), duration(seconds)])}"


def _facts(out: Path) -> list[str]:
    if (out / "scores.json").is_file():
        return _scores(read_json(out / "scores.json"))
    if out.name == "report" and Path("results.json").is_file():
        return _report(read_json(Path("results.json")))
    files = [path for path in [out, *out.rglob("*")] if path.is_file()]
    total = size(sum(path.stat().st_size for path in files))
    if not (out / "manifest.json").is_file():
        return [f"{len(files)} file{'' if len(files) == 1 else 's'}", total]
    manifest = read_json(out / "manifest.json")
    if "bits_per_weight" in manifest:
        return _format(manifest)
    identity = [f"model id {manifest['model_id']}"] if "model_id" in manifest else []
    return [total, *identity]


def _scores(result: Mapping[str, Any]) -> list[str]:
    items = sum(result["items"].values())
    return [f"mean {result['average']:.3f}", f"{items} items of {len(result['scores'])} tasks"]


def _format(manifest: Mapping[str, Any]) -> list[str]:
    facts = [size(manifest["size"]), f"{manifest['bits_per_weight']:.2f} bits a weight"]
    if "perplexity" in manifest:
        of_model = manifest["reference_perplexity"]
        facts.append(f"perplexity {manifest['perplexity']:.4f} (unquantized {of_model:.4f})")
    return facts


def _report(results: Mapping[str, Any]) -> list[str]:
    means = {name: scores["mean"] for name, scores in (results.get("scores") or {}).items()}
    facts = ["index.html and README.md"]
    if "final" in means:
        facts.append(f"final {means['final']:.3f} in the mean")
    made = len(results.get("formats") or {})
    return [*facts, f"{made} format{'' if made == 1 else 's'}"]
