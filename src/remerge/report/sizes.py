"""What the report says about quantized formats: size, bits a weight, what was lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remerge.report.build import Build
from remerge.report.drawing import Tradeoff, tradeoff
from remerge.report.numbers import decimal, percent, points, size

_BYTES = {"F16": 2, "BF16": 2, "F32": 4}
#: Share of tokens on which a format that is recommended agrees with the unquantized model.
GOOD_AGREEMENT = 0.99


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
    """What `formats.html.j2` shows; `choice` recommends one, empty where nothing was measured."""

    measured: bool
    rows: tuple[FormatRow, ...]
    choice: str
    picture: Tradeoff | None


def formats_of(build: Build) -> Formats | None:
    """A row for each format beside the unquantized model; None where no format was made."""
    if not build.formats:
        return None
    weights, unquantized = weights_of(build.final)
    largest = max([unquantized, *(m["size"] for m in build.formats.values())])
    found = [q for m in build.formats.values() if (q := quality_of(m)).get("reference_perplexity")]
    reference = {"perplexity": found[0]["reference_perplexity"]} if found else {}
    listed = {"safetensors": {**reference, "size": unquantized}, **build.formats}
    measured = {n: (m["size"], q) for n, m in build.formats.items() if (q := quality_of(m))}
    recommended = _recommended(measured)
    lost = {n: (s, float(q["divergence"])) for n, (s, q) in measured.items() if "divergence" in q}
    return Formats(
        measured=bool(measured),
        rows=tuple(_row(n, m, largest, weights, build) for n, m in listed.items()),
        choice=_choice(recommended, measured),
        picture=tradeoff(lost, recommended) if len(lost) > 1 else None,
    )


def recommended(build: Build) -> str:
    """Name the format to run the model in; empty where none was measured."""
    return _recommended(
        {n: (m["size"], q) for n, m in build.formats.items() if (q := quality_of(m))}
    )


def _recommended(measured: Mapping[str, tuple[int, Mapping[str, Any]]]) -> str:
    """The smallest format that mostly says the same token, else the one that lost the least."""
    same = {n: (size, q["agreement"]) for n, (size, q) in measured.items() if "agreement" in q}
    good = [name for name, (_, agreement) in same.items() if agreement >= GOOD_AGREEMENT]
    if good:
        return min(good, key=lambda name: same[name][0])
    return max(same, key=lambda name: same[name][1], default="")


def _choice(name: str, measured: Mapping[str, tuple[int, Mapping[str, Any]]]) -> str:
    if not name:
        return ""
    count, quality = measured[name]
    rule = (
        f"the smallest that says the same token at least {percent(GOOD_AGREEMENT, 0)} % of the time"
    )
    if quality["agreement"] < GOOD_AGREEMENT:
        rule = "the one that lost the least"
    return f"To run it, take {name} ({size(count)}): {rule}."


def noise(quality: Mapping[str, Any]) -> float | None:
    """Two standard errors of the growth of the perplexity, as a fraction; None where unknown.

    To second order the log-ratio of two close distributions has twice their Kullback-Leibler
    divergence D as variance, so the mean of n of them has the standard error √(2·D/n).
    """
    divergence, tokens = quality.get("divergence"), quality.get("tokens")
    if divergence is None or not tokens:
        return None
    return 2 * math.sqrt(2 * max(0.0, divergence) / tokens)


def _band(quality: Mapping[str, Any]) -> str:
    band = noise(quality)
    return "" if band is None else f" ± {percent(band, 2)}"


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
        growth="" if grown is None else f"{points(grown, 2)}{_band(quality)} %",
        divergence="" if divergence is None else thousandths(divergence),
        agreement="" if agreement is None else f"{percent(agreement)} %",
        class_=str(manifest.get("class") or build.final["class"]),
        runtime=str(manifest.get("runtime", "transformers")),
    )
