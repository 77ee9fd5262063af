"""What is ahead, told before the first unit starts: bytes by node, and the time they will take.

The time is what storage takes at the rates that all nodes saw at once a moment ago, or what the
cores take at the rate of an earlier run of the same kind of merge, whichever is longer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from remerge.cluster.connection import Node
from remerge.cluster.footprint import Footprint
from remerge.formatting import duration
from remerge.shards.units import Plan
from remerge.tensors.json_files import write_json

#: Beside the folders of work in progress: bytes in and out that a slot gets through in a second.
RATES_FILE = "cluster-rates.json"


def known_rate(folder: Path, plan: Plan) -> float | None:
    """Bytes a second and slot of the last run of this kind of plan, from `folder`."""
    try:
        return float(json.loads((folder / RATES_FILE).read_text())[type(plan).__name__])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_rate(folder: Path, plan: Plan, rate: float) -> None:
    """Keep a measured rate for the next run."""
    try:
        rates = json.loads((folder / RATES_FILE).read_text())
    except (OSError, ValueError):
        rates = {}
    known = rates if isinstance(rates, dict) else {}
    write_json(folder / RATES_FILE, known | {type(plan).__name__: round(rate)})


def seconds_ahead(
    nodes: Sequence[Node], prints: Sequence[Footprint], rate: float | None
) -> tuple[float, float | None]:
    """Seconds that storage takes, and that cores take where `rate` is known."""
    read = sum(unit.read for unit in prints)
    written = sum(unit.written for unit in prints)
    storage = read / max(1.0, sum(node.read_rate for node in nodes))
    storage += written / max(1.0, sum(node.write_rate for node in nodes))
    at_once = min(sum(node.slots for node in nodes), len(prints))
    return storage, (read + written) / (rate * at_once) if rate and at_once else None


def plan_text(
    label: str, nodes: Sequence[Node], prints: Sequence[Footprint], kept: int, rate: float | None
) -> str:
    """The lines that are shown before work starts."""
    read = sum(unit.read for unit in prints)
    written = sum(unit.written for unit in prints)
    storage, cores = seconds_ahead(nodes, prints, rate)
    slots = sum(node.slots for node in nodes)
    work = f"{len(prints)} units on {len(nodes)} nodes, {kept} finished before"
    lines = [f"{label}: {work}; {size(read)} to read, {size(written)} to write"]
    for node in nodes:
        share = node.slots / slots
        lines.append(
            f"  {node.name}: {node.slots} at once, about {share * len(prints):.0f} units, "
            f"reads {size(share * read)} (measured {size(node.read_rate)}/s), "
            f"writes {size(share * written)} ({size(node.write_rate)}/s)"
        )
    known = "unknown until a first run" if cores is None else duration(cores)
    lines.append(
        f"  expected: {duration(max(storage, cores or 0.0))} "
        f"(storage {duration(storage)}, cores {known})"
    )
    return "\n".join(lines)


def size(count: float) -> str:
    """Bytes for people: `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
