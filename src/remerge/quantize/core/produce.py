"""Make any format by its name.

>>> quantize(Path("merged/final"), Path("quantized/gguf_q8_0"), "gguf_q8_0").size
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from remerge.errors import RecipeError
from remerge.files import disk_errors
from remerge.quantize.core.description import Description
from remerge.quantize.core.format import CONTAINERS, Format, one_of
from remerge.quantize.core.request import Request

if TYPE_CHECKING:
    from remerge.quantize.core.reporting import QuantReport
    from remerge.shards.artefact import MakeShards


def quantize(
    model_folder: Path | str,
    out_folder: Path | str,
    format_name: str,
    *,
    threads: int | None = None,
    calibration: Path | str | None = None,
    name: str = "model",
    prompt: str = "own",
    make_shards: MakeShards | None = None,
    scratch: Path | str = "scratch",
    description: Description | None = None,
) -> QuantReport:
    """Write the Llama in `model_folder` in the format `format_name`, and a manifest.json.

    `threads` (default: all cores) changes the time, never a byte. `calibration` is the text that
    GPTQ is fitted to, not read for other formats. `name` is what the result calls the model, and
    `prompt` its chat template (``own``: the model's, if it has one; ``alpaca``; ``raw``: none),
    where the format has a place for them; so has GGUF for `description` (license, base models,
    tags). `make_shards` makes the tensors of GGUF and GGML as units of work in a folder of
    `scratch`, which an interrupted attempt leaves to the next; without it this process makes them,
    as it always does for GPTQ. RecipeError for a format that does not exist, a missing text or an
    unknown prompt; CheckpointError for a folder that is damaged, no Llama with a SentencePiece
    tokenizer, or not what the format can hold; NumericError for NaN or Inf; ToolError for a disk
    that is too small.
    """
    from remerge.shards.threads import require_ieee_arithmetic, thread_count

    # The threads that compute inherit the mode of this one.
    require_ieee_arithmetic()
    container = format_name.partition("_")[0]
    if container not in CONTAINERS:
        raise RecipeError(
            f"{format_name!r} is not a format; names begin with {', '.join(CONTAINERS)}"
        )
    # Each container on its own: who writes GGUF runs nothing that GPTQ needs.
    room = f"remerge.quantize.{container}"
    formats: Mapping[str, Format] = importlib.import_module(f"{room}.formats").FORMATS
    request = Request(
        Path(model_folder),
        Path(out_folder),
        one_of(formats, format_name),
        thread_count(threads),
        Path(calibration) if calibration is not None else None,
        name,
        prompt,
        make_shards,
        Path(scratch),
        description or Description(),
    )
    with disk_errors(format_name, request.out):
        report: QuantReport = importlib.import_module(f"{room}.write").write(request)
    return report
