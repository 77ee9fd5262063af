"""Parameters of a made recipe of one base and some donors, as a stage reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from remerge.recipes.derive import derive
from remerge.recipes.pins import read_pins


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
    """Write `params.yaml` and the pins of `made_params` into the folder, composed as by Hydra."""
    old = params["recipe"]
    pins = {
        name: {key: value for key, value in entry.items() if key != "out"}
        for name, entry in old["sources"].items()
    }
    (folder / "conf" / "pins").mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({"sources": pins}, sort_keys=False)
    (folder / "conf" / "pins" / "made.yaml").write_text(text)
    named = {entry["out"]: name for name, entry in old["sources"].items()}
    named |= {entry["out"]: name for name, entry in old["loras"].items()}

    def part(places: dict[str, Any]) -> dict[str, Any]:
        kept = {}
        for place in places.values():
            if place.get("name") is not None:
                use = {k: place[k] for k in ("density", "weight", "vocabulary") if k in place}
                kept[place["name"]] = {"model": named[place["path"]], **use}
        return {"method": "ties", "models": kept}

    recipe = {key: old[key] for key in ("name", "title", "dtype", "shard_bytes") if key in old}
    recipe |= {
        "base": named[old["base"]],
        "bakes": {
            name: {"model": named[entry["model"]], "adapter": named[entry["adapter"]]}
            for name, entry in old["loras"].items()
        },
        "merges": {
            **{name: part(places) for name, places in old["parts"].items()},
            "final": {"method": "gradient", "models": ["p1", "p2"]},
        },
        "result": "final",
    }
    texts = {"texts": "texts", "measure": False}
    written = {
        "recipe": recipe,
        "ties": params["ties"],
        "gradient": {"name": "made", **params["gradient"]},
        "eval": {"suite": "made", "data": "data"},
        "quantize": {"calibration": "text", **texts, "gguf": texts, "ggml": texts, "gptq": texts},
        "execution": params["execution"],
    }
    derived = derive(written, read_pins(folder / "conf" / "pins", ["made"]))
    whole = yaml.safe_load(yaml.safe_dump({**written, **derived}, sort_keys=False))
    (folder / "params.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
