"""What a recipe downloads, writes and keeps, before anything runs.

>>> budget = plan_budget(params, sizes)
>>> budget.download, budget.peak

Sizes of sources are exact once they are pinned: files by their pins, tensors by headers that are
read by range. Before that they are what the recipe expects, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remerge.errors import RecipeError
from remerge.quantize.bits import bits_per_weight
from remerge.quantize.formats import FORMATS
from remerge.tensors.dtypes import ITEM_SIZE, from_torch_name


@dataclass(frozen=True)
class SourceSize:
    """`files` bytes in all, of which `download` come over the network, `largest` in one file.

    weights   bytes of the tensors that are kept
    elements  how many numbers those are
    exact     from pins and headers, not from what the recipe expects
    """

    files: int
    download: int
    largest: int
    weights: int
    elements: int
    exact: bool


@dataclass(frozen=True)
class Step:
    """One item of a stage. All in bytes; `temporary` is gone when it ends, `writes` stays.

    cached  stays as well, in the hub's cache
    """

    stage: str
    item: str
    download: int
    reads: int
    writes: int
    temporary: int
    cached: int = 0


@dataclass(frozen=True)
class Budget:
    """All steps in order; `exact` when every size is."""

    steps: tuple[Step, ...]
    exact: bool

    @property
    def download(self) -> int:
        """Bytes that come over the network."""
        return sum(step.download for step in self.steps)

    @property
    def kept(self) -> int:
        """Bytes of all outputs; the cache holds the same files by hard links."""
        return sum(step.writes for step in self.steps)

    @property
    def cached(self) -> int:
        """Bytes that are added to the hub's cache, on whatever disk that is."""
        return sum(step.cached for step in self.steps)

    @property
    def peak(self) -> int:
        """Most bytes on disk at any time, when the steps run one after the other."""
        kept = peak = 0
        for step in self.steps:
            peak = max(peak, kept + step.temporary + step.writes + step.cached)
            kept += step.writes + step.cached
        return peak


def expected_size(entry: Mapping[str, Any]) -> SourceSize:
    """The size of a source that is not pinned yet, as its recipe expects it."""
    expected = int(entry.get("expected_bytes") or 0)
    # The shards of 2023 were cut at 10 GB; a model of float32 came in three all the same.
    largest = min(expected, max(10**10, -(-expected * 38 // 100)))
    return SourceSize(expected, expected, largest, expected, expected // 2, exact=False)


def plan_budget(params: Mapping[str, Any], sizes: Mapping[str, SourceSize]) -> Budget:
    """The steps of the pipeline that `params` describe, given the sizes of its sources by name."""
    recipe = params["recipe"]
    item = ITEM_SIZE[from_torch_name(recipe["dtype"])]
    execution = params.get("execution") or {}
    workers, keep = int(execution.get("downloads", 2)), execution.get("keep_downloads") is True
    steps, folder, elements = [], {}, {}
    for name, entry in recipe["sources"].items():
        size = sizes[name]
        folder[entry["out"]], elements[entry["out"]] = size.weights, size.elements
        download = size.download if entry.get("repo") else 0
        cached = download if keep else 0
        temporary = 0 if keep else min(download, workers * size.largest)
        steps.append(Step("fetch", name, download, size.files, size.weights, temporary, cached))
    base = recipe["base"]
    merged = elements[base] * item
    for name, entry in (recipe.get("loras") or {}).items():
        count = max(elements[entry["model"]], elements[base]) if _pinned(sizes) else elements[base]
        folder[entry["out"]] = count * item
        reads = folder[entry["model"]] + folder[entry["adapter"]]
        steps.append(Step("bake_loras", name, 0, reads, count * item, 0))
    for part, places in recipe["parts"].items():
        donors = [place["path"] for place in places.values() if place.get("name") is not None]
        reads = folder[base] + sum(folder[path] for path in donors)
        steps.append(Step(f"ties_{part}", "", 0, reads, merged, 0))
    steps.append(Step("gradient", "", 0, 2 * merged, merged, 0))
    for name, entry in (params.get("quantize_eval") or {}).items():
        if entry.get("kind") == "quantize":
            if name not in FORMATS:
                raise RecipeError(f"quantize_eval.{name}: not a format whose size is known")
            written = int(elements[base] * bits_per_weight(FORMATS[name]) / 8)
            steps.append(Step("quantize_eval", name, 0, merged, written, 0))
        else:
            steps.append(Step("quantize_eval", name, 0, merged, 0, 0))
    return Budget(tuple(steps), _pinned(sizes))


def _pinned(sizes: Mapping[str, SourceSize]) -> bool:
    return all(size.exact for size in sizes.values())
