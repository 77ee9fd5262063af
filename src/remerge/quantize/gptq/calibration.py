"""One layer after the other fitted to what the quantized layers before it give.

Within a layer query, key and value come first, then output, gate and up, down (`true_sequential`).
Forward pass and second moments are float64, the solver is exact (see `solver`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from remerge.quantize.core.format import Format
from remerge.quantize.core.forward import attend, gated, normalise
from remerge.quantize.core.llama import LlamaShape
from remerge.quantize.core.tensor import ModelTensor
from remerge.quantize.core.weights import read_weights
from remerge.quantize.gptq.packing import STEPS, bits_of, group_scales, pack
from remerge.quantize.gptq.solver import solve


class Fitting:
    """The state of one run: the hidden states so far, and what becomes of each tensor."""

    def __init__(
        self, shape: LlamaShape, tensors: list[ModelTensor], form: Format, threads: int
    ) -> None:
        self.shape = shape
        self.form = form
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
        scales, raw = group_scales(weight, tensor.info.dtype, self.form)
        codes = solve(
            weight.astype(np.float64),
            moment,
            scales,
            bits=bits_of(self.form),
            by_activation=self.form.by_activation,
            pool=self.pool,
        )
        stem = tensor.info.name.removesuffix(".weight")
        arrays = {
            f"{stem}.weight_packed": pack(codes, bits_of(self.form)).reshape(-1).view(np.uint8),
            f"{stem}.weight_scale": raw,
            f"{stem}.weight_shape": np.array(weight.shape, "<i8").view(np.uint8),
        }
        return codes * np.repeat(scales, weight.shape[1] // scales.shape[1], axis=1), arrays


def second_moment(inputs: list[np.ndarray]) -> np.ndarray:
    """Mean of xᵀx over all rows x of all inputs: float64 [in, in]."""
    total = np.zeros((inputs[0].shape[1],) * 2)
    for rows in inputs:
        total += rows.T @ rows
    return total / sum(len(rows) for rows in inputs)


def _fit_step(
    fitting: Fitting,
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
    fitting: Fitting, layer: int, states: list[np.ndarray]
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
