"""Make any format by its name.

>>> quantize(Path("merged/final"), Path("quantized/gguf_q8_0"), "gguf_q8_0").size
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remerge.errors import RecipeError
from remerge.files import disk_errors
from remerge.locks import sole_writer
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

    `model_folder` may be a GGUF file of 16-bit or 32-bit weights instead, of any architecture, for
    the formats of GGUF; its metadata are kept, so `name`, `prompt` and `description` say nothing.

    `threads` (default: all cores) changes the time, never a byte. `calibration` is the text that
    GPTQ is fitted to, not read for other formats. `name` is what the result calls the model, and
    `prompt` its chat template (``own``: the model's, if it has one; ``alpaca``; ``raw``: none),
    where the format has a place for them; so has GGUF for `description` (license, base models,
    tags). `make_shards` makes the tensors of GGUF and GGML as units of work in a folder of
    `scratch`, which an interrupted attempt leaves to the next; without it this process makes them,
    as it always does for GPTQ. RecipeError for a format that does not exist, a missing text or an
    unknown prompt; CheckpointError for a folder that is damaged, no Llama with a SentencePiece
    tokenizer, or not what the format can hold; NumericError for NaN or Inf; ToolError for a disk
    that is too small, and while another process writes `out_folder`.
    """
    from remerge.threads import require_ieee_arithmetic, thread_count

    # The threads that compute inherit the mode of this one.
    require_ieee_arithmetic()
    form, writer = _format(format_name, Path(model_folder))
    request = Request(
        Path(model_folder),
        Path(out_folder),
        form,
        thread_count(threads),
        Path(calibration) if calibration is not None else None,
        name,
        prompt,
        make_shards,
        Path(scratch),
        description or Description(),
    )
    with disk_errors(format_name, request.out), sole_writer(request.out, format_name):
        report: QuantReport = writer.write(request)
    return report


def check(
    model_folder: Path, format_name: str, *, calibration: Path | None = None, prompt: str = "own"
) -> None:
    """Refuse what `quantize` would refuse before it writes.

    Args:
        model_folder: Config, tokenizer and headers of a model; no weight is read.
        format_name: The format.
        calibration: The text that GPTQ is fitted to.
        prompt: The chat template, as for `quantize`.

    Raises:
        CheckpointError: The model cannot be held by the format.
        RecipeError: A format that does not exist, a missing text, an unknown prompt.
    """
    form, writer = _format(format_name, model_folder)
    writer.prepare(Request(model_folder, model_folder, form, 1, calibration, prompt=prompt))


def _format(name: str, model: Path) -> tuple[Format, Any]:
    """A format, and the module that writes it: who writes GGUF runs nothing that GPTQ needs."""
    container = name.partition("_")[0]
    if container not in CONTAINERS:
        raise RecipeError(f"{name!r} is not a format; names begin with {', '.join(CONTAINERS)}")
    folder = f"remerge.quantize.{container}"
    formats: Mapping[str, Format] = importlib.import_module(f"{folder}.formats").FORMATS
    form = one_of(formats, name)
    if model.is_file():
        return form, importlib.import_module("remerge.quantize.gguf.requantize")
    return form, importlib.import_module(f"{folder}.write")
