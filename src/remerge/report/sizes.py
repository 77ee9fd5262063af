"""The section of the report about quantised formats: size, bits a weight, what was lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remerge.report.build import Build
from remerge.report.markup import Markup, decimal, element, percent, points, size, table

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


def formats_section(build: Build) -> Markup | None:
    """A row for each format beside the unquantised model; None where no format was made."""
    if not build.formats:
        return None
    weights, unquantised = weights_of(build.final)
    largest = max([unquantised, *(m["size"] for m in build.formats.values())])
    found = [q for m in build.formats.values() if (q := quality_of(m)).get("reference_perplexity")]
    reference = {"perplexity": found[0]["reference_perplexity"]} if found else {}
    measured = any(quality_of(m) for m in build.formats.values())
    rows = [_row("safetensors", unquantised, largest, reference, weights, measured, build)]
    rows += [
        _row(name, manifest["size"], largest, manifest, weights, measured, build)
        for name, manifest in build.formats.items()
    ]
    head = ["format", "size", "", "bits a weight"]
    if measured:
        head += ["perplexity", "growth", "divergence", "same token"]
    head += ["class", "runs in"]
    words = (
        "Perplexity on held-back text of the recipe, both models computed in float64 on the "
        "weights that the file stands for; its growth is the loss by quantisation. Divergence: "
        "Kullback-Leibler, of the next token's distribution from the unquantised model's, in "
        "thousandths of a nat a token. Same token: how often both would say the same next."
    )
    return element(
        "section",
        element("h2", "Formats"),
        element(
            "p", words if measured else "Every file that was made of the result.", class_="quiet"
        ),
        table(head, rows, texts={"", "class", "runs in"}),
        class_="card",
        id="formats",
    )


def _row(
    name: str,
    count: int,
    largest: int,
    manifest: Mapping[str, Any],
    weights: int,
    measured: bool,
    build: Build,
) -> Markup:
    share = f"width:{percent(count / largest)}%"
    bar = element("span", element("span", class_="bar", style=share), class_="track")
    cells = [
        element("th", name, scope="row"),
        element("td", size(count)),
        element("td", bar, class_="text"),
        element("td", f"{manifest.get('bits_per_weight', 8 * count / weights):.2f}"),
    ]
    if measured:
        cells += _quality_cells(quality_of(manifest))
    cells += [
        element("td", str(manifest.get("class") or build.final["class"]), class_="text"),
        element("td", str(manifest.get("runtime", "transformers")), class_="text"),
    ]
    return element("tr", *cells)


def _quality_cells(quality: Mapping[str, Any]) -> list[Markup]:
    if not quality:
        return [element("td")] * 4
    reference = quality.get("reference_perplexity")
    grown = quality["perplexity"] / reference - 1 if reference else None
    shown = "" if grown is None else f"{points(grown, 2)} %"
    divergence, agreement = quality.get("divergence"), quality.get("agreement")
    return [
        element("td", decimal(quality["perplexity"], 5)),
        element("td", shown),
        element("td", "" if divergence is None else thousandths(divergence)),
        element("td", "" if agreement is None else f"{percent(agreement)} %"),
    ]
