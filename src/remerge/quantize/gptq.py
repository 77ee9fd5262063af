"""Write a Llama model folder with 4-bit weights fitted to a calibration text (GPTQ).

>>> quantize(folder, out, "gptq_4bit_128g", calibration=Path("embedded/calibration.txt"))

The result is a folder that transformers and vLLM load: the `pack-quantized` layout of
compressed-tensors, symmetric codes, one scale for 128 weights, embedding and output matrix left as
they are. Layers are fitted in order, each on what the quantized layers before it give, and within
a layer query, key and value first, then output, gate and up, down (`true_sequential`).

Class *stable*: forward pass and second moments in float64, the solver exact (see `gptq_solver`).
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np

from remerge.atomic import open_atomic, write_json
from remerge.errors import CheckpointError, NumericError, RecipeError, printable
from remerge.kernels.blocks import narrow, widen
from remerge.progress import track
from remerge.quantize.corpus import calibration_windows
from remerge.quantize.formats import of_container
from remerge.quantize.forward import Weights, attend, embed, gated, normalise
from remerge.quantize.gptq_solver import GROUP, solve
from remerge.quantize.llama import LlamaShape, LlamaTensor, llama_tensors, read_shape
from remerge.quantize.reporting import QuantReport, write_report
from remerge.shards.layout import OutputTensor, plan_shards
from remerge.tensors.checkpoint import open_checkpoint, raw_bytes, read_config, read_f32
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE

FILE_NAME = "model.safetensors"
#: The projections of a layer in the steps in which they are fitted.
STEPS = (("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",))
FITTED = tuple(part for step in STEPS for part in step)
#: Windows of the calibration text and tokens in each.
WINDOWS, WINDOW_LENGTH = 128, 256
_COPIED = (
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def quantization_config(*, by_activation: bool) -> dict[str, Any]:
    """What `config.json` says of the weights, in the words of compressed-tensors."""
    weights = {
        "actorder": "static" if by_activation else None,
        "dynamic": False,
        "group_size": GROUP,
        "num_bits": 4,
        "strategy": "group",
        "symmetric": True,
        "type": "int",
    }
    group = {"format": "pack-quantized", "targets": ["Linear"], "weights": weights}
    return {
        "config_groups": {"group_0": group},
        "format": "pack-quantized",
        "ignore": ["lm_head"],
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def read_weights(tensor: LlamaTensor) -> np.ndarray:
    """The tensor in its own shape as float32; NumericError for NaN or Inf."""
    values = read_f32(tensor.info)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        index = [int(i) for i in np.unravel_index(bad[0], tensor.info.shape)]
        raise NumericError(
            f"{tensor.info.path}: tensor {printable(tensor.info.name)!r}: {values[bad[0]]} at "
            f"index {index}; repair the source"
        )
    return values.reshape(tensor.info.shape)


def group_scales(weight: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """One scale for 128 weights of a row: as float64 [out, in/128], and as bytes of `dtype`.

    max|w| / 7.5, rounded to the type of the weights; 1 where that is 0.
    """
    groups = np.abs(weight).reshape(len(weight), -1, GROUP).max(axis=2)
    scales = np.ascontiguousarray(groups / np.float32(7.5)).reshape(-1)
    raw = np.empty(scales.size * ITEM_SIZE[dtype], np.uint8)
    narrow(scales, KERNEL_CODE[dtype], raw)
    widen(raw, KERNEL_CODE[dtype], scales)
    scales[scales == 0.0] = 1.0
    narrow(scales, KERNEL_CODE[dtype], raw)
    return scales.astype(np.float64).reshape(groups.shape), raw


def pack(codes: np.ndarray) -> np.ndarray:
    """Codes int8 [out, in] as int32 [out, in/8]: code + 8, the first in the lowest four bits."""
    nibbles = (codes.astype(np.int16) + 8).astype(np.uint32).reshape(len(codes), -1, 8)
    return (
        (nibbles << np.arange(0, 32, 4, dtype=np.uint32)).sum(axis=2, dtype=np.uint32).view("<i4")
    )


def unpack(packed: np.ndarray) -> np.ndarray:
    """The inverse of `pack`."""
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    nibbles = (packed.view("<u4")[:, :, None] >> shifts) & np.uint32(15)
    return nibbles.reshape(len(packed), -1).astype(np.int8) - np.int8(8)


class _Fitting:
    """The state of one run: the hidden states so far, and what becomes of each tensor."""

    def __init__(
        self, shape: LlamaShape, tensors: list[LlamaTensor], by_activation: bool, threads: int
    ) -> None:
        self.shape = shape
        self.by_activation = by_activation
        self.pool = ThreadPoolExecutor(threads)
        self._tensors = {(tensor.part, tensor.layer): tensor for tensor in tensors}

    def weights(self, part: str, layer: int) -> np.ndarray:
        """Unquantized weights, float64."""
        return read_weights(self._tensors[part, layer]).astype(np.float64)

    def fit(
        self, part: str, layer: int, moment: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The quantized matrix, float64, and the arrays that the file holds for it."""
        tensor = self._tensors[part, layer]
        weight = read_weights(tensor)
        scales, raw = group_scales(weight, tensor.info.dtype)
        codes = solve(
            weight.astype(np.float64),
            moment,
            scales,
            by_activation=self.by_activation,
            pool=self.pool,
        )
        stem = tensor.info.name.removesuffix(".weight")
        arrays = {
            f"{stem}.weight_packed": pack(codes).reshape(-1).view(np.uint8),
            f"{stem}.weight_scale": raw,
            f"{stem}.weight_shape": np.array(weight.shape, "<i8").view(np.uint8),
        }
        return codes * np.repeat(scales, GROUP, axis=1), arrays


def second_moment(inputs: list[np.ndarray]) -> np.ndarray:
    """Mean of xᵀx over all rows x of all inputs: float64 [in, in]."""
    total = np.zeros((inputs[0].shape[1],) * 2)
    for rows in inputs:
        total += rows.T @ rows
    return total / sum(len(rows) for rows in inputs)


def _fit_step(
    fitting: _Fitting,
    layer: int,
    step: tuple[str, ...],
    inputs: list[np.ndarray],
    arrays: dict[str, np.ndarray],
) -> list[list[np.ndarray]]:
    """Fit the projections of one step; for each the outputs of the quantized one."""
    moment = second_moment(inputs)
    outputs = []
    for part in step:
        matrix, found = fitting.fit(part, layer, moment)
        arrays.update(found)
        outputs.append([rows @ matrix.T for rows in inputs])
    return outputs


def fit_layer(
    fitting: _Fitting, layer: int, states: list[np.ndarray]
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Quantize one layer: the states behind it, and the arrays for the file by their names."""
    shape = fitting.shape
    arrays: dict[str, np.ndarray] = {}
    gain = fitting.weights("attn_norm", layer)
    calm = [normalise(state, gain, shape.rms_epsilon) for state in states]
    projected = _fit_step(fitting, layer, STEPS[0], calm, arrays)
    mixed = [attend(shape, q, k, v) for q, k, v in zip(*projected, strict=True)]
    (added,) = _fit_step(fitting, layer, STEPS[1], mixed, arrays)
    states = [state + more for state, more in zip(states, added, strict=True)]
    gain = fitting.weights("ffn_norm", layer)
    calm = [normalise(state, gain, shape.rms_epsilon) for state in states]
    gate, up = _fit_step(fitting, layer, STEPS[2], calm, arrays)
    inner = [gated(g, u) for g, u in zip(gate, up, strict=True)]
    (added,) = _fit_step(fitting, layer, STEPS[3], inner, arrays)
    return [state + more for state, more in zip(states, added, strict=True)], arrays


def _outputs(tensor: LlamaTensor) -> list[OutputTensor]:
    """The tensors of the file that one tensor of the model becomes."""
    info = tensor.info
    if tensor.part not in FITTED:
        return [OutputTensor(info.name, info.dtype, info.shape)]
    rows, columns = info.shape
    stem = info.name.removesuffix(".weight")
    return [
        OutputTensor(f"{stem}.weight_packed", "I32", (rows, columns // 8)),
        OutputTensor(f"{stem}.weight_scale", info.dtype, (rows, columns // GROUP)),
        OutputTensor(f"{stem}.weight_shape", "I64", (2,)),
    ]


def _produce(
    fitting: _Fitting, tensors: list[LlamaTensor], windows: list[np.ndarray], label: str
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, bytes) of all tensors of the file, in the order of the model."""
    source: Weights = fitting.weights
    states = embed(source, windows)
    arrays: dict[str, np.ndarray] = {}
    done = -1
    with track(fitting.shape.layers, label, unit="layer") as bar:
        for tensor in tensors:
            if tensor.layer > done:
                done = tensor.layer
                states, arrays = fit_layer(fitting, done, states)
                bar.advance(1)
            for output in _outputs(tensor):
                if tensor.part in FITTED:
                    yield output.name, arrays[output.name]
                else:
                    read_weights(tensor)
                    yield output.name, raw_bytes(tensor.info)


def _check(tensors: list[LlamaTensor]) -> None:
    for tensor in tensors:
        if tensor.part in FITTED and tensor.columns % GROUP:
            raise CheckpointError(
                f"{tensor.info.path}: tensor {printable(tensor.info.name)!r}: {tensor.columns} "
                f"columns are no multiple of the group of {GROUP}"
            )


def quantize(
    model_folder: Path | str,
    out_folder: Path | str,
    format_name: str,
    *,
    threads: int | None = None,
    calibration: Path | None = None,
) -> QuantReport:
    """Write the quantized model, configuration, tokenizer and manifest.json to `out_folder`.

    `calibration` is a UTF-8 text like what the model will read; the first 128 windows of 256
    tokens of its first half are used. RecipeError without one, CheckpointError for a damaged folder
    or a model that is no Llama, NumericError for NaN or Inf.
    """
    form = of_container(format_name, "gptq")
    if calibration is None:
        raise RecipeError(f"{format_name} needs a calibration text")
    model_folder, out_folder = Path(model_folder), Path(out_folder)
    by_activation = format_name.endswith("_actorder")
    config = read_config(model_folder)
    shape = read_shape(config, str(model_folder))
    tensors = llama_tensors(open_checkpoint(model_folder), shape)
    _check(tensors)
    length = min(WINDOW_LENGTH, shape.context)
    windows = calibration_windows(
        model_folder, Path(calibration), shape.vocabulary, length, WINDOWS
    )
    fitting = _Fitting(shape, tensors, by_activation, threads or cpu_count() or 1)
    outputs = [output for tensor in tensors for output in _outputs(tensor)]
    (shard,) = plan_shards(outputs, limit=max(1, sum(output.nbytes for output in outputs)))
    with fitting.pool, open_atomic(out_folder / FILE_NAME) as file:
        file.write(shard.header)
        for name, data in _produce(fitting, tensors, windows, format_name):
            assert len(data) == next(t.nbytes for t in shard.tensors if t.name == name)
            file.write(data.data)
    configured = quantization_config(by_activation=by_activation)
    write_json(out_folder / "config.json", {**config, "quantization_config": configured})
    others = ["config.json"]
    for name in _COPIED:
        if (model_folder / name).is_file():
            shutil.copyfile(model_folder / name, out_folder / name)
            others.append(name)
    return write_report(
        out_folder,
        form,
        FILE_NAME,
        sum(tensor.info.size for tensor in tensors),
        Counter("INT4" if tensor.part in FITTED else tensor.info.dtype for tensor in tensors),
        (f"calibrated on {len(windows)} windows of {len(windows[0])} tokens",),
        others,
    )
