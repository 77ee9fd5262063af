"""What the report says about what was seen while merging: heat maps by layer and kind.

The numbers come from the manifests of p1, p2 and final, which the merges wrote at no extra pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remerge.report.build import Build, place_of
from remerge.report.drawing import (
    Curve,
    HeatMap,
    Legend,
    Shares,
    heat_map,
    legend,
    line_along,
    shares,
)
from remerge.report.numbers import decimal, percent
from remerge.report.scale import Scale, around_zero, growing, linear

Statistics = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class DonorRow:
    """A donor of a part; `trimmed` and `gave` are fractions."""

    name: str
    color: str
    density: float
    weight: float
    norm: float
    trimmed: float
    gave: float


@dataclass(frozen=True)
class Maps:
    """Heat maps of one statistic, with the legend that they share."""

    title: str
    legend: Legend
    maps: tuple[HeatMap, ...]


@dataclass(frozen=True)
class Part:
    """A TIES merge; `kinds` are rows of means by kind of tensor, below `kinds_head`."""

    name: str
    names: tuple[str, ...]
    shares: Shares
    donors: tuple[DonorRow, ...]
    maps: tuple[Maps, ...]
    kinds_head: list[str]
    kinds: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Merge:
    """What `merge.html.j2` shows."""

    gradient: str
    blend: Curve | None
    parts: tuple[Part, ...]


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


def merge_of(build: Build) -> Merge:
    """Both TIES merges and the blend of their results."""
    parts = [_part(name, build.merges[name]) for name in ("p1", "p2") if name in build.merges]
    return Merge(
        gradient=", ".join(f"{value:g}" for value in build.gradient["values"]),
        blend=_blend(build),
        parts=tuple(part for part in parts if part is not None),
    )


def _blend(build: Build) -> Curve | None:
    """The share of P2 along the model."""
    ratios = ratios_of(build.final)
    if not ratios:
        return None
    words = "share of P2 in percent, tensor by tensor in state-dict order"
    low, high = percent(min(ratios.values())), percent(max(ratios.values()))
    return line_along(ratios, f"{words}, from {low} to {high}")


def _part(part: str, manifest: Mapping[str, Any]) -> Part | None:
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
    maps = [
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
    ]
    rows = _donor_rows(donors, found, counts)
    return Part(
        name=part,
        names=tuple(names),
        shares=shares(
            [(row.name, row.gave) for row in rows],
            "share of the merged task vector that each donor gave, over all tensors",
        ),
        donors=rows,
        maps=tuple(m for m in maps if m.maps),
        kinds_head=[
            "kind of tensor",
            *(f"root mean square, {name}" for name in names),
            "conflict, %",
            *(f"gave, %, {name}" for name in names),
        ],
        kinds=_by_kind(found, len(names), counts),
    )


def _disagreement(found: Statistics, counts: Mapping[str, int], names: Sequence[str]) -> Maps:
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
) -> Maps:
    drawn = tuple(heat_map(name, values, scale) for name, values in maps)
    return Maps(title, legend(scale, unit), drawn)


def _donor_rows(
    donors: Sequence[Mapping[str, Any]], found: Statistics, counts: Mapping[str, int]
) -> tuple[DonorRow, ...]:
    total = sum(counts[name] for name in found) or 1
    return tuple(
        DonorRow(
            name=str(donor["model"]),
            color=f"c{index % 8}",
            density=donor["density"],
            weight=donor["weight"],
            norm=math.sqrt(_mean(found, counts, "norms", index, power=2)),
            trimmed=1 - sum(s["kept"][index] for s in found.values()) / total,
            gave=_mean(found, counts, "contributions", index),
        )
        for index, donor in enumerate(donors)
    )


def _mean(
    found: Statistics, counts: Mapping[str, int], key: str, index: int | None = None, power: int = 1
) -> float:
    """Mean of a statistic over tensors, each weighed by its size."""
    total = sum(counts[name] for name in found) or 1
    values = {n: float(s[key] if index is None else s[key][index]) for n, s in found.items()}
    return math.fsum(counts[n] * v * (v if power == 2 else 1) for n, v in values.items()) / total


def _by_kind(
    found: Statistics, donors: int, counts: Mapping[str, int]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The maps as means by kind of tensor, for readers of numbers and of screens."""
    kinds: dict[str, Statistics] = {}
    for name, statistics in found.items():
        kinds.setdefault(place_of(name)[1], {})[name] = statistics
    return tuple(
        (
            kind,
            (
                *(decimal(_mean(group, counts, "norms", i)) for i in range(donors)),
                percent(_mean(group, counts, "conflict")),
                *(percent(_mean(group, counts, "contributions", i)) for i in range(donors)),
            ),
        )
        for kind, group in kinds.items()
    )
