"""quantize_eval, kind quantize: the final model in one more format, and what that cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from remerge.atomic import write_json
from remerge.errors import RecipeError
from remerge.quantize.perplexity import measure
from remerge.quantize.produce import quantize
from remerge.shards.threads import thread_count
from remerge.tensors.checkpoint import read_json


def make(name: str, entry: dict[str, Any], params: dict[str, Any]) -> None:
    """Write the format `name` of the model in `entry["reads"]` to `entry["out"]`."""
    settings = params["quantize"]
    model, out = Path(entry["reads"]), Path(entry["out"])
    quantize(model, out, name, threads=thread_count(), calibration=Path(settings["calibration"]))
    if settings["measure"]:
        texts = sorted(Path(settings["texts"]).glob("*.jsonl"))
        if not texts:
            raise RecipeError(f"quantize.texts: {settings['texts']} holds no .jsonl file")
        manifest = out / "manifest.json"
        # Threads of a matrix product only hinder one another on models this small.
        with threadpool_limits(1):
            quality = measure(model, out, texts)
        write_json(manifest, {**read_json(manifest), **asdict(quality)})
