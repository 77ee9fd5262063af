"""quantize_eval, kind quantize: the final model in one more format, and what that cost.

An item reads the section of the parameters that it names and nothing else: a setting that only
GPTQ uses re-runs GPTQ alone.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from threadpoolctl import threadpool_limits

from remerge.errors import RecipeError
from remerge.locks import sole_writer
from remerge.quantize import quantize
from remerge.quantize.core.description import describe
from remerge.quantize.core.perplexity import measure
from remerge.recipes.schema import FormatSettings
from remerge.recipes.tables import Item
from remerge.stages.params import Params
from remerge.stages.running import SCRATCH, execution
from remerge.tensors.json_files import read_json, write_json
from remerge.threads import thread_count


def make(name: str, entry: Item, params: Params) -> None:
    """Write the format `name` of the model in `entry.reads` to `entry.out`.

    What was measured goes into the manifest: `tokens`, `perplexity`, `reference_perplexity` (of
    the model itself), `divergence` and `agreement`.
    """
    settings = _settings(name, entry, params)
    model, out = Path(entry.reads), Path(entry.out)
    written = settings.model_dump(include={"calibration", "name", "prompt"}, exclude_none=True)
    texts = sorted(Path(settings.texts).glob("*.jsonl"))
    if settings.measure and not texts:
        raise RecipeError(f"{entry.section}.texts: {settings.texts} holds no .jsonl file")
    placed = execution(params.execution)
    described = describe(entry.description or {}, f"quantize_eval.{name}.description")
    written |= {"description": described, "scratch": SCRATCH}
    with sole_writer(out, name):
        quantize(model, out, name, threads=thread_count(), **placed, **written)
        if settings.measure:
            manifest = out / "manifest.json"
            # Threads of a matrix product only hinder one another on models this small.
            with threadpool_limits(1):
                quality = measure(model, out, texts)
            write_json(manifest, {**read_json(manifest), **asdict(quality)})


def _settings(name: str, entry: Item, params: Params) -> FormatSettings:
    """The section that the item names, `quantize.gguf` for example."""
    container = entry.section.partition(".")[2]
    if params.quantize is None or not container:
        raise RecipeError(f"quantize_eval.{name}.section: {entry.section} is no section of formats")
    settings: FormatSettings = getattr(params.quantize, container)
    return settings
