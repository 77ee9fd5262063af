"""Which way a checkpoint is quantized, and what its tensors are when it is dequantized.

>>> found = dequantized("source 'x'", config, tensors, values)
>>> found.origins["model.layers.0.mlp.up_proj.weight"].tensor.dtype
'BF16'

Names and types decide, and config.json has to agree with them: a scale that is left over or missing
is refused, since a model without it would be wrong silently. The formulas stand in
docs/contract.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from remerge.architectures.buffers import is_buffer
from remerge.errors import CheckpointError, printable
from remerge.sources.quantized.bnb import STATE, read_bnb, require_linear
from remerge.sources.quantized.compressed import read_compressed
from remerge.sources.quantized.fp8 import read_fp8
from remerge.sources.quantized.mxfp4 import read_mxfp4
from remerge.sources.quantized.origin import Origin, Stock, Values, copy_of
from remerge.tensors.dtypes import KERNEL_CODE, TORCH_NAMES
from remerge.tensors.layout import OutputTensor
from remerge.tensors.safetensors import TensorInfo

#: Entries of config.json that say how a model is quantized.
CONFIG_KEYS = ("quantization_config", "compression_config")
#: Parts of config.json that hold the settings of a language model.
_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
#: Scales of activations and caches: they change how a model computes, not its weights.
_ACTIVATIONS = (
    "activation_scale",
    "input_scale",
    "input_zero_point",
    "output_scale",
    "output_zero_point",
    "k_scale",
    "k_zero_point",
    "v_scale",
    "v_zero_point",
    "q_scale",
    "prob_scale",
)
#: Ends of the names of tensors that belong to quantized weights.
_BESIDE = (
    "_scale_inv",
    ".weight_scale",
    ".weight_packed",
    ".weight_zero_point",
    ".weight_g_idx",
    ".weight_global_scale",
    "_blocks",
    ".SCB",
    ".absmax",
    ".qweight",
    ".qzeros",
    ".scales",
    ".W_q",
)
#: What to do about methods that are known and not read.
_ELSEWHERE = {
    "gptq": "load it with GPTQModel, dequantize and save it",
    "awq": "load it with AutoAWQ or GPTQModel, dequantize and save it",
    "auto-round": "save it with AutoRound in the compressed-tensors format",
    "hqq": "call `dequantize()` on its HQQLinear modules and save the model",
    "quanto": "call `dequantize()` on its quanto modules and save the model",
    "torchao": "dequantize its tensors with torchao and save the model",
    "modelopt": "export it without quantization from NVIDIA ModelOpt",
}


@dataclass(frozen=True)
class Dequantized:
    """What a quantized checkpoint is when it is dequantized.

    Attributes:
        origins: Where each tensor of the result comes from, by its name.
        notes: Tensor and text of lines of the manifest.
        method: How it is quantized.
        dtype: The type of what was quantized.
    """

    origins: dict[str, Origin]
    notes: list[tuple[str, str]]
    method: str
    dtype: str


def quantization_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return how config.json says that the model is quantized; None if it says nothing."""
    for part in _parts(config):
        for key in CONFIG_KEYS:
            found = part.get(key)
            if isinstance(found, Mapping) and found:
                return found
    return None


def _parts(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The config and the parts of it that describe a language model."""
    parts = (config.get(name) for name in _PARTS)
    return [config, *(part for part in parts if isinstance(part, Mapping))]


def without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json as that of a plain model."""
    plain = {key: value for key, value in config.items() if key not in CONFIG_KEYS}
    for name in _PARTS:
        if isinstance(plain.get(name), Mapping):
            plain[name] = {k: v for k, v in plain[name].items() if k not in CONFIG_KEYS}
    return plain


def method_of(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> str | None:
    """Return how a checkpoint is quantized, in words; None if it is not.

    A config that says how a model was quantized does no harm beside plain weights alone.
    """
    quant = quantization_of(config)
    kinds = {info.dtype for n, info in tensors.items() if not is_buffer(n, info.shape)}
    odd = sorted(kinds - KERNEL_CODE.keys())
    beside = any(name.endswith(_BESIDE) or STATE in name for name in tensors)
    if not odd and not (beside and quant is not None) and not any(STATE in n for n in tensors):
        return None
    if quant is not None:
        return _name(quant)
    if any(kind.startswith("F8") for kind in odd) and beside:
        return "fp8"
    return "bitsandbytes" if any(STATE in name for name in tensors) else None


def _name(quant: Mapping[str, Any]) -> str:
    method = quant.get("quant_method")
    if isinstance(method, str) and method:
        return {"compressed_tensors": "compressed-tensors"}.get(method, method)
    if "load_in_4bit" in quant or "load_in_8bit" in quant:
        return "bitsandbytes"
    return "compressed-tensors" if "config_groups" in quant else "unknown"


def require_plain(
    where: str, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], advice: str
) -> None:
    """CheckpointError with this advice for a checkpoint that is quantized."""
    method = method_of(config, tensors)
    if method is not None:
        raise CheckpointError(
            f"{where}: its weights are quantized ({printable(method, 40)}); {advice}, or name the "
            "model that it was made from"
        )


def dequantized(
    where: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    values: Values,
    dtype_advice: str = "set `config: {dtype: bfloat16}` on the source in conf/pins",
) -> Dequantized:
    """Find what a quantized checkpoint is when it is dequantized.

    Args:
        where: The source, for messages.
        config: Its config.json.
        tensors: Its tensors, by headers alone.
        values: Gives the bytes of small tensors.
        dtype_advice: What to do where config.json names no type.

    Returns:
        The origins of all tensors, copies too. What was quantized has the type that config.json
        says (`dtype` or `torch_dtype`), everything else its own.

    Raises:
        CheckpointError: It is not quantized, in a way that is not known, or not whole.
    """
    method = method_of(config, tensors)
    if method is None:
        raise CheckpointError(f"{where}: its weights are not quantized; leave `dequantize` out")
    dtype = _dtype(config, where, dtype_advice)
    quant = quantization_of(config)
    if quant is None:
        raise CheckpointError(
            f"{where}: its tensors look quantized ({method}), and config.json has no "
            "quantization_config that says how"
        )
    stock = Stock(where, {name: (info.dtype, info.shape) for name, info in tensors.items()})
    origins = _read(method, stock, config, quant, dtype, values)
    if not origins:
        raise CheckpointError(
            f"{where}: config.json says that weights are quantized ({printable(method, 40)}), and "
            "none of its tensors is"
        )
    notes = [("", f"{len(origins)} tensors dequantized from {method} to {dtype}")]
    dropped = [name for name in stock.left if _is_of_activations(name)]
    notes += [(name, "scale of activations, dropped") for name in dropped]
    copies = [name for name in stock.left if name not in dropped]
    _check_copies(stock, copies, method)
    found = {origin.tensor.name: origin for origin in origins}
    for name in copies:
        if name in found:
            raise stock.wrong(name, "is stored twice, quantized and plain")
        info = tensors[name]
        found[name] = copy_of(OutputTensor(name, info.dtype, info.shape))
    return Dequantized(found, notes, method, dtype)


def _read(
    method: str,
    stock: Stock,
    config: Mapping[str, Any],
    quant: Mapping[str, Any],
    dtype: str,
    values: Values,
) -> list[Origin]:
    if method in ("fp8", "fbgemm_fp8"):
        return read_fp8(stock, quant, dtype)
    if method == "compressed-tensors":
        return read_compressed(stock, quant, dtype, values)
    if method == "bitsandbytes":
        require_linear(config, stock.where)
        return read_bnb(stock, dtype, values)
    if method == "mxfp4":
        if config.get("model_type") != "gpt_oss":
            raise CheckpointError(
                f"{stock.where}: MXFP4 is read as gpt_oss stores it, and this is a "
                f"{printable(config.get('model_type'), 40)}; dequantize it with the program that "
                "made it"
            )
        return read_mxfp4(stock, dtype)
    what = _ELSEWHERE.get(method, "dequantize it with the program that made it")
    raise CheckpointError(
        f"{stock.where}: quantized with {printable(method, 40)}, which cannot be dequantized here; "
        f"{what}, or name the model that it was made from (fp8, fbgemm_fp8, compressed-tensors, "
        "bitsandbytes and mxfp4 can)"
    )


def _is_of_activations(name: str) -> bool:
    """Whether a tensor is a scale of activations, of a module or of experts in one tensor."""
    last = name.rpartition(".")[2]
    return last in _ACTIVATIONS or last.endswith(("_proj_activation_scale", "_proj_input_scale"))


def _check_copies(stock: Stock, names: Iterable[str], method: str) -> None:
    """CheckpointError for what is left over and looks like a part of a quantized weight."""
    for name in names:
        dtype, shape = stock.dtype(name), stock.shape(name)
        if is_buffer(name, shape):
            continue
        if dtype not in KERNEL_CODE or name.endswith(_BESIDE) or STATE in name:
            raise stock.wrong(
                name,
                f"({dtype} {list(shape)}) is quantized or belongs to a quantized weight, in a way "
                f"that {printable(method, 40)} as config.json says it does not have",
            )
        if ".weight." in name or name.endswith((".weight_shape", ".weight_format", "_scales")):
            raise stock.wrong(name, "belongs to a quantized weight that is not there")


def _dtype(config: Mapping[str, Any], where: str, advice: str) -> str:
    """The type of the result, as safetensors calls it."""
    for part in _parts(config):
        for key in ("dtype", "torch_dtype"):
            said = part.get(key)
            if said is not None:
                name = str(said).removeprefix("torch.")
                if name not in TORCH_NAMES:
                    raise CheckpointError(
                        f"{where}: config.json says that weights are {printable(said, 40)}; "
                        f"dequantized ones are {', '.join(TORCH_NAMES)}: {advice}"
                    )
                return TORCH_NAMES[name]
    raise CheckpointError(
        f"{where}: config.json does not say the type of its weights (dtype), which dequantized "
        f"ones need: {advice}"
    )
