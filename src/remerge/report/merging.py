"""The section of the report about what was seen while merging: heat maps by layer and kind.

The numbers come from the manifests of p1, p2 and final, which the merges wrote at no extra pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from remerge.report.build import Build, place_of
from remerge.report.drawing import heat_map, legend, line_along, shares
from remerge.report.markup import Markup, decimal, element, join, percent, table
from remerge.report.scale import Scale, around_zero, growing, linear

Statistics = dict[str, dict[str, Any]]


def statistics_of(manifest: Mapping[str, Any]) -> Statistics:
    """Statistics by tensor in state-dict order; tensors without any are left out."""
    tensors = manifest["tensors"]
    return {n: tensors[n]["statistics"] for n in manifest["order"] if "statistics" in tensors[n]}


def sizes_of(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Number of weights by tensor."""
    return {name: math.prod(t["shape"]) for name, t in manifest["tensors"].items()}


def ties_donors(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The donors of a TIES merge with their settings."""
    return list(manifest["parameters"].get("donors", ()))


def ratios_of(manifest: Mapping[str, Any]) -> dict[str, float]:
    """The second part's share by tensor, of a gradient merge."""
    return {n: s["ratio"] for n, s in statistics_of(manifest).items() if "ratio" in s}


def merging_section(build: Build) -> Markup:
    """Both TIES merges and the blend of their results."""
    return element(
        "section",
        element("h2", "Inside the merge"),
        element(
            "p",
            "A task vector is what training changed: donor minus base. TIES keeps the largest "
            "entries of each, lets them elect a sign and averages those that agree.",
            class_="quiet",
        ),
        blend(build),
        *(_part(name, build.merges[name]) for name in ("p1", "p2") if name in build.merges),
        class_="card",
        id="merge",
    )


def blend(build: Build) -> Markup | None:
    """The share of P2 along the model."""
    ratios = ratios_of(build.final)
    if not ratios:
        return None
    values = ", ".join(f"{value:g}" for value in build.gradient["values"])
    words = "share of P2 in percent, tensor by tensor in state-dict order"
    return join(
        element("h3", "Blend ratio along the model"),
        element(
            "p",
            f"Share of P2 in percent, tensor by tensor in state-dict order; layers as bands. "
            f"Gradient {values} along {build.gradient['along']}.",
            class_="quiet",
        ),
        element(
            "div",
            line_along(
                ratios,
                f"{words}, from {percent(min(ratios.values()))} to {percent(max(ratios.values()))}",
            ),
            class_="scroll",
        ),
    )


def _part(part: str, manifest: Mapping[str, Any]) -> Markup | None:
    found = {n: s for n, s in statistics_of(manifest).items() if "norms" in s}
    donors = ties_donors(manifest)
    if not found or not donors:
        return None
    names = [str(donor["model"]) for donor in donors]
    pairs = [f"{a} · {b}" for i, a in enumerate(names) for b in names[i + 1 :]]
    counts = sizes_of(manifest)
    norms = [value for s in found.values() for value in s["norms"]]
    cosines = [value for s in found.values() for value in s["cosines"]]
    given = [value for s in found.values() for value in s["contributions"]]
    return join(
        element("h3", f"{part.upper()}: {', '.join(names)}"),
        _donor_table(donors, found, counts),
        _maps(
            "How far each donor moved",
            "root mean square of the task vector, before trimming",
            [(name, _pick(found, "norms", i)) for i, name in enumerate(names)],
            growing(norms),
        ),
        _maps(
            "Do two donors pull the same way?",
            "cosine between their task vectors; 0 means that they have nothing in common",
            [(pair, _pick(found, "cosines", i)) for i, pair in enumerate(pairs)],
            around_zero(cosines),
        ),
        _maps(
            "What each donor gave",
            "share of the merged task vector; all donors of a tensor sum to 100 percent",
            [(name, _pick(found, "contributions", i, 100.0)) for i, name in enumerate(names)],
            linear(min([0.0, *given]) * 100, max([*given, 0.0]) * 100 or 1.0),
        ),
        _disagreement(found, counts, names),
        _by_kind(found, names, counts),
    )


def _disagreement(
    found: Statistics, counts: Mapping[str, int], names: Sequence[str]
) -> Markup | None:
    """Sign conflict, and the share kept of donors of which the trim kept more here than there."""
    conflict = {name: 100 * s["conflict"] for name, s in found.items()}
    shares = {name: _kept(found, counts, i) for i, name in enumerate(names)}
    # The trim keeps the same share of every tensor, unless many entries are zero.
    uneven = {n: v for n, v in shares.items() if max(v.values()) - min(v.values()) > 1.0}
    title, unit = "Where donors disagree", "percent of entries whose survivors disagree in sign"
    if uneven:
        title, unit = f"{title}, and what the trim kept", f"{unit}, and percent of entries kept"
    high = max(max(values.values()) for values in [conflict, *uneven.values()])
    maps = [("sign conflict", conflict), *((f"kept of {n}", v) for n, v in uneven.items())]
    return _maps(title, unit, maps, linear(0.0, high or 1.0))


def _pick(found: Statistics, key: str, index: int, factor: float = 1.0) -> dict[str, float]:
    return {name: factor * s[key][index] for name, s in found.items()}


def _kept(found: Statistics, counts: Mapping[str, int], index: int) -> dict[str, float]:
    return {n: 100 * s["kept"][index] / max(1, counts[n]) for n, s in found.items()}


def _maps(
    title: str, unit: str, maps: Sequence[tuple[str, Mapping[str, float]]], scale: Scale
) -> Markup | None:
    if not maps:
        return None
    return join(
        element("h4", title),
        legend(scale, unit),
        element("div", *(heat_map(name, values, scale) for name, values in maps), class_="maps"),
    )


def _donor_table(
    donors: Sequence[Mapping[str, Any]], found: Statistics, counts: Mapping[str, int]
) -> Markup:
    total = sum(counts[name] for name in found) or 1
    gave = [_mean(found, counts, "contributions", i) for i in range(len(donors))]
    rows = []
    for index, donor in enumerate(donors):
        kept = sum(s["kept"][index] for s in found.values())
        norm = math.sqrt(_mean(found, counts, "norms", index, power=2))
        swatch = element("i", class_=f"c{index % 8}", style="border:0")
        key = element("span", swatch, class_="key", style="display:inline")
        rows.append(
            element(
                "tr",
                element("th", key, str(donor["model"]), scope="row"),
                element("td", f"{donor['density']:g}"),
                element("td", f"{donor['weight']:g}"),
                element("td", decimal(norm)),
                element("td", f"{percent(1 - kept / total)} %"),
                element("td", f"{percent(gave[index])} %"),
            )
        )
    head = ["donor", "density", "weight", "root mean square", "trimmed away", "gave"]
    bar = [(str(donor["model"]), share) for donor, share in zip(donors, gave, strict=True)]
    return join(
        shares(bar, "share of the merged task vector that each donor gave, over all tensors"),
        table(head, rows),
    )


def _mean(
    found: Statistics, counts: Mapping[str, int], key: str, index: int | None = None, power: int = 1
) -> float:
    """Mean of a statistic over tensors, each weighed by its size."""
    total = sum(counts[name] for name in found) or 1
    values = {n: float(s[key] if index is None else s[key][index]) for n, s in found.items()}
    return math.fsum(counts[n] * v * (v if power == 2 else 1) for n, v in values.items()) / total


def _by_kind(found: Statistics, names: Sequence[str], counts: Mapping[str, int]) -> Markup:
    """The maps as a table of means by kind of tensor, for readers of numbers and of screens."""
    kinds: dict[str, Statistics] = {}
    for name, statistics in found.items():
        kinds.setdefault(place_of(name)[1], {})[name] = statistics
    rows = []
    for kind, group in kinds.items():
        cells = [
            *(decimal(_mean(group, counts, "norms", i)) for i in range(len(names))),
            percent(_mean(group, counts, "conflict")),
            *(percent(_mean(group, counts, "contributions", i)) for i in range(len(names))),
        ]
        title = element("th", kind, scope="row")
        rows.append(element("tr", title, *(element("td", cell) for cell in cells)))
    head = [
        "kind of tensor",
        *(f"root mean square, {name}" for name in names),
        "conflict, %",
        *(f"gave, %, {name}" for name in names),
    ]
    return element(
        "details",
        element("summary", "The same as a table of means by kind of tensor"),
        table(head, rows),
    )
