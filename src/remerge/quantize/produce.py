"""Make any format by its name.

>>> quantize(Path("merged/final"), Path("quantized/gguf_q8_0"), "gguf_q8_0").size
"""

from __future__ import annotations

from pathlib import Path

from remerge.quantize.formats import choose
from remerge.quantize.reporting import QuantReport


def quantize(
    model_folder: Path | str,
    out_folder: Path | str,
    format_name: str,
    *,
    threads: int | None = None,
    calibration: Path | None = None,
) -> QuantReport:
    """Write `out_folder` from `model_folder` by the container that `format_name` belongs to.

    See `gguf.quantize`, `ggml.quantize` and `gptq.quantize`, which this calls. RecipeError for a
    format that does not exist.
    """
    (form,) = choose([format_name])
    # Each container on its own: who writes GGUF needs nothing that GPTQ needs.
    if form.container == "gguf":
        from remerge.quantize import gguf

        return gguf.quantize(model_folder, out_folder, format_name, threads=threads)
    if form.container == "ggml":
        from remerge.quantize import ggml

        return ggml.quantize(model_folder, out_folder, format_name, threads=threads)
    from remerge.quantize import gptq

    return gptq.quantize(
        model_folder, out_folder, format_name, threads=threads, calibration=calibration
    )
