"""Parameters of a made recipe of one base and some donors, as a stage reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def made_params(sources: dict[str, Any], **execution: object) -> dict[str, Any]:
    """The source `base` is the base, every other model a donor of both parts."""
    empty = {"name": None, "path": "unused", "density": None, "weight": 1.0, "vocabulary": None}
    donors = [n for n, entry in sources.items() if entry["kind"] == "model" and n != "base"]
    places = {f"d{i}": dict(empty) for i in range(1, 9)}
    for i, name in enumerate(donors, start=1):
        places[f"d{i}"] |= {"name": name, "path": sources[name]["out"], "vocabulary": "truncate"}
    return {
        "recipe": {
            "name": "made",
            "title": "made",
            "dtype": "float16",
            "shard_bytes": 600_000,
            "base": sources["base"]["out"],
            "sources": sources,
            "loras": {},
            "parts": {"p1": places, "p2": places},
        },
        "ties": {"density": 0.33, "lambda": 1.0, "normalize": True, "elect": "sum"},
        "gradient": {"values": [0.0, 1.0], "along": "tensors", "blend": "all", "containing": ""},
        "execution": {"backend": "local", "downloads": 2, "keep_downloads": False, **execution},
    }


def write_params(folder: Path, params: dict[str, Any]) -> None:
    """Write `params.yaml` into the folder."""
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
