"""quantize_eval, kind quantize: the final model in one more format, and what that cost.

An item reads the section of its container and nothing else: a setting that only GPTQ uses re-runs
GPTQ alone.
"""

from __future__ import annotations

from pathlib import Path

from remerge.errors import RecipeError
from remerge.locks import sole_writer
from remerge.quantize import quantize
from remerge.quantize.core.description import describe
from remerge.quantize.core.perplexity import add_quality
from remerge.recipes.schema import FormatSettings
from remerge.recipes.tables import Item
from remerge.stages.params import Params
from remerge.stages.running import SCRATCH, execution
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
        raise RecipeError(
            f"quantize.{entry.container}.texts: {settings.texts} holds no .jsonl file"
        )
    placed = execution(params.execution)
    described = describe(
        params.tables.description if entry.container == "gguf" else {}, "description"
    )
    written |= {"description": described, "scratch": SCRATCH}
    with sole_writer(out, name):
        quantize(model, out, name, threads=thread_count(), **placed, **written)
        if settings.measure:
            add_quality(model, out, texts)


def _settings(name: str, entry: Item, params: Params) -> FormatSettings:
    """The section of the item's container, `quantize.gguf` for example."""
    if params.quantize is None:
        raise RecipeError(f"quantize is missing, and quantize_eval has the format {name}")
    settings: FormatSettings = getattr(params.quantize, entry.container)
    return settings
