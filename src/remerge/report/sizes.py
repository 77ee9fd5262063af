"""What the report says about quantized formats: size, bits a weight, what was lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remerge.report.build import Build
from remerge.report.numbers import decimal, percent, points

_BYTES = {"F16": 2, "BF16": 2, "F32": 4}


def weights_of(manifest: Mapping[str, Any]) -> tuple[int, int]:
    """Number of weights of a built model, and their bytes."""
    weights = total = 0
    for tensor in manifest["tensors"].values():
        count = 1
        for extent in tensor["shape"]:
            count *= extent
        weights += count
        total += count * _BYTES.get(tensor["dtype"], 8)
    return weights, total


def quality_of(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was measured of a format: perplexity, divergence, agreement; empty where nothing was."""
    quality = manifest.get("quality", manifest)
    return quality if isinstance(quality, Mapping) and "perplexity" in quality else {}


def thousandths(divergence: float) -> str:
    """A divergence for reading, in thousandths of a nat."""
    return f"{1000 * divergence:.3f}"


@dataclass(frozen=True)
class FormatRow:
    """One file: `share` of the largest, and what was measured as text, empty where nothing was."""

    name: str
    size: int
    share: float
    bits: float
    perplexity: str
    growth: str
    divergence: str
    agreement: str
    class_: str
    runtime: str


@dataclass(frozen=True)
class Formats:
    """What `formats.html.j2` shows."""

    measured: bool
    rows: tuple[FormatRow, ...]


def formats_of(build: Build) -> Formats | None:
    """A row for each format beside the unquantized model; None where no format was made."""
    if not build.formats:
        return None
    weights, unquantized = weights_of(build.final)
    largest = max([unquantized, *(m["size"] for m in build.formats.values())])
    found = [q for m in build.formats.values() if (q := quality_of(m)).get("reference_perplexity")]
    reference = {"perplexity": found[0]["reference_perplexity"]} if found else {}
    listed = {"safetensors": {**reference, "size": unquantized}, **build.formats}
    return Formats(
        measured=any(quality_of(m) for m in build.formats.values()),
        rows=tuple(_row(n, m, largest, weights, build) for n, m in listed.items()),
    )


def _row(
    name: str, manifest: Mapping[str, Any], largest: int, weights: int, build: Build
) -> FormatRow:
    quality = quality_of(manifest)
    reference = quality.get("reference_perplexity")
    grown = quality["perplexity"] / reference - 1 if reference else None
    divergence, agreement = quality.get("divergence"), quality.get("agreement")
    count = manifest["size"]
    return FormatRow(
        name=name,
        size=count,
        share=count / largest,
        bits=manifest.get("bits_per_weight", 8 * count / weights),
        perplexity=decimal(quality["perplexity"], 5) if quality else "",
        growth="" if grown is None else f"{points(grown, 2)} %",
        divergence="" if divergence is None else thousandths(divergence),
        agreement="" if agreement is None else f"{percent(agreement)} %",
        class_=str(manifest.get("class") or build.final["class"]),
        runtime=str(manifest.get("runtime", "transformers")),
    )
