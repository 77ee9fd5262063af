"""Write a Llama model folder with 4-bit or 8-bit weights fitted to a calibration text (GPTQ).

The result is a folder that transformers and vLLM load: the `pack-quantized` layout of
compressed-tensors, symmetric codes, one scale for a group of weights, embedding and output matrix
left as they are. Class *stable*: see `fitting` and `docs/decisions/0006-gptq-in-float64.md`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remerge.errors import CheckpointError, RecipeError, printable
from remerge.files import open_atomic, require_space, write_bytes, write_text
from remerge.progress import track
from remerge.quantize.core.corpus import calibration_windows
from remerge.quantize.core.format import Format
from remerge.quantize.core.forward import embed
from remerge.quantize.core.llama import LlamaShape, llama_tensors, read_shape
from remerge.quantize.core.reporting import QuantReport, Written, write_report
from remerge.quantize.core.request import Request
from remerge.quantize.core.tensor import ModelTensor
from remerge.quantize.core.weights import read_weights
from remerge.quantize.gptq.calibration import Fitting, fit_layer
from remerge.quantize.gptq.packing import (
    FILE_NAME,
    FITTED,
    bits_of,
    packed_tensors,
    quantization_config,
)
from remerge.tensors.checkpoint import open_checkpoint, raw_bytes, read_config
from remerge.tensors.json_files import read_json, write_json
from remerge.tensors.layout import plan_shards
from remerge.tensors.safetensors import read_header
from remerge.vocabulary.chat_template import SETTINGS_FILE, TEMPLATE_FILE, chat_template

#: Windows of the calibration text and tokens in each.
WINDOWS, WINDOW_LENGTH = 128, 256
_COPIED = (
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    SETTINGS_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE_FILE,
)


def _produce(
    fitting: Fitting, tensors: list[ModelTensor], windows: list[np.ndarray], label: str
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, bytes) of all tensors of the file, in the order of the model."""
    states = embed(fitting.weights, windows)
    arrays: dict[str, np.ndarray] = {}
    done = -1
    with track(fitting.shape.layers, label, unit="layer") as bar:
        for tensor in tensors:
            if tensor.layer > done:
                done = tensor.layer
                states, arrays = fit_layer(fitting, done, states)
                bar.advance(1)
            for output in packed_tensors(tensor, fitting.form):
                if tensor.part in FITTED:
                    yield output.name, arrays[output.name]
                else:
                    read_weights(tensor)
                    yield output.name, raw_bytes(tensor.info)


def _check(tensors: list[ModelTensor], form: Format) -> None:
    """Refuse columns that no whole number of groups, or of packed codes, holds."""
    width = form.group or 32 // bits_of(form)
    for tensor in tensors:
        if tensor.part in FITTED and tensor.columns % width:
            raise CheckpointError(
                f"{tensor.info.path}: tensor {printable(tensor.info.name)!r}: {tensor.columns} "
                f"columns are no multiple of the group of {width}"
            )


def _write_companions(model: Path, out: Path, prompt: str) -> tuple[list[str], tuple[str, ...]]:
    """Copy the tokenizer's files, with the chat template that is asked for: their names, notes."""
    template = chat_template(model, prompt)
    files = {name: (model / name) for name in _COPIED if (model / name).is_file()}
    if not template.own:
        files.pop(TEMPLATE_FILE, None)
        settings = read_json(files[SETTINGS_FILE]) if SETTINGS_FILE in files else {}
        if settings.pop("chat_template", None) is not None:
            del files[SETTINGS_FILE]
            write_json(out / SETTINGS_FILE, settings)
    for name, path in files.items():
        write_bytes(out / name, path.read_bytes())
    if not template.own and template.text is not None:
        write_text(out / TEMPLATE_FILE, template.text)
    return [name for name in _COPIED if (out / name).is_file()], template.notes


@dataclass(frozen=True)
class Prepared:
    """The configuration and tensors of a model, and the windows that it is fitted to."""

    config: dict[str, Any]
    shape: LlamaShape
    tensors: list[ModelTensor]
    windows: list[np.ndarray]


def prepare(request: Request) -> Prepared:
    """Read config, headers, tokenizer and text, before the hours of fitting.

    RecipeError without a text, CheckpointError for a model that cannot be fitted in groups.
    """
    label, model = request.form.name, request.model
    if request.calibration is None:
        raise RecipeError(f"{label} needs a calibration text")
    config = read_config(model)
    shape = read_shape(config, str(model))
    tensors = llama_tensors(open_checkpoint(model), shape)
    _check(tensors, request.form)
    length = min(WINDOW_LENGTH, shape.context)
    windows = calibration_windows(model, request.calibration, shape.vocabulary, length, WINDOWS)
    chat_template(model, request.prompt)
    return Prepared(config, shape, tensors, windows)


def write(request: Request) -> QuantReport:
    """Write weights, configuration, tokenizer and manifest.json to `request.out`.

    `request.calibration` is a UTF-8 text like what the model will read; the first 128 windows of
    256 tokens of its first half are used. RecipeError without one; see `quantize` for other errors.
    """
    label, model, out = request.form.name, request.model, request.out
    made = prepare(request)
    tensors, windows = made.tensors, made.windows
    fitting = Fitting(made.shape, tensors, request.form, request.threads)
    outputs = [output for tensor in tensors for output in packed_tensors(tensor, request.form)]
    (shard,) = plan_shards(outputs, limit=max(1, sum(output.nbytes for output in outputs)))
    require_space(out, shard.nbytes, label)
    sizes = {tensor.name: tensor.nbytes for tensor in shard.tensors}
    with fitting.pool, open_atomic(out / FILE_NAME) as file:
        file.write(shard.header)
        for name, data in _produce(fitting, tensors, windows, label):
            assert len(data) == sizes[name]
            file.write(data.data)
    configured = quantization_config(request.form)
    write_json(out / "config.json", {**made.config, "quantization_config": configured})
    coded = f"INT{bits_of(request.form)}"
    others, notes = _write_companions(model, out, request.prompt)
    return write_report(
        out,
        request.form,
        Written(
            FILE_NAME,
            sum(tensor.info.size for tensor in tensors),
            Counter(coded if tensor.part in FITTED else tensor.info.dtype for tensor in tensors),
            (f"calibrated on {len(windows)} windows of {len(windows[0])} tokens", *notes),
            ["config.json", *others],
            read_header(out / FILE_NAME),
        ),
        name=request.name,
        request=request,
    )
