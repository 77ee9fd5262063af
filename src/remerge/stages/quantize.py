"""quantize_eval, kind quantize: the final model in one more format, and what that cost.

An item reads the section of the parameters that it names and nothing else: a setting that only
GPTQ uses re-runs GPTQ alone.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from remerge.errors import RecipeError
from remerge.quantize import quantize
from remerge.quantize.core.perplexity import measure
from remerge.shards.threads import thread_count
from remerge.stages.running import SCRATCH, execution
from remerge.tensors.json_files import read_json, write_json


def make(name: str, entry: dict[str, Any], params: dict[str, Any]) -> None:
    """Write the format `name` of the model in `entry["reads"]` to `entry["out"]`.

    What was measured goes into the manifest: `tokens`, `perplexity`, `reference_perplexity` (of
    the model itself), `divergence` and `agreement`.
    """
    settings = _settings(name, entry, params)
    model, out = Path(entry["reads"]), Path(entry["out"])
    written = {key: settings[key] for key in ("calibration", "name", "prompt") if key in settings}
    texts = sorted(Path(settings["texts"]).glob("*.jsonl"))
    if settings["measure"] and not texts:
        raise RecipeError(f"quantize.texts: {settings['texts']} holds no .jsonl file")
    placed = execution(params)
    quantize(model, out, name, threads=thread_count(), scratch=SCRATCH, **placed, **written)
    if settings["measure"]:
        manifest = out / "manifest.json"
        # Threads of a matrix product only hinder one another on models this small.
        with threadpool_limits(1):
            quality = measure(model, out, texts)
        write_json(manifest, {**read_json(manifest), **asdict(quality)})


def _settings(name: str, entry: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """The section that the item names, `quantize.gguf` for example."""
    found: Any = params
    for key in str(entry.get("section")).split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise RecipeError(f"quantize_eval.{name}.section: {entry.get('section')} is no section")
    if not isinstance(found.get("measure"), bool):
        raise RecipeError(f"quantize.measure is {found.get('measure')!r}; expected true or false")
    for key, value in found.items():
        if key != "measure" and not isinstance(value, str):
            raise RecipeError(f"quantize.{key} is {value!r}; expected a text")
    return found
