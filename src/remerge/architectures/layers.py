"""How modules store their weight: Linear as [out, in], the Conv1D of GPT-2 as [in, out].

>>> is_conv1d("transformer.h.0.attn.c_attn", {"model_type": "gpt2"})
True

Only the architecture tells them apart: `c_proj` is Conv1D in GPT-2 and Linear in GPTBigCode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Modules that are Conv1D in some architecture; every other name is Linear in all of them.
_CONV1D_NAMES = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
#: Architectures in which all modules of those names are Conv1D.
_CONV1D = frozenset({"gpt2", "gpt-sw3", "openai-gpt", "imagegpt", "decision_transformer", "clvp"})
#: Architectures that use those names for Linear modules; `qwen` is Qwen-1, with code of its own.
_LINEAR = frozenset({"gpt_bigcode", "gpt_neo", "starcoder2", "qwen"})
#: Architectures whose modules of experts say that they are stored [experts, in, out].
_TRANSPOSED_EXPERTS = frozenset({"gpt_oss", "openai_privacy_filter"})


def is_conv1d(module: str, config: Mapping[str, Any]) -> bool | None:
    """Tell whether the weight of `module` is stored [in, out]; None if it cannot be known.

    Args:
        module: Name of the module.
        config: The model's `config.json`; may be empty.
    """
    if module.rpartition(".")[2] not in _CONV1D_NAMES:
        return False
    types = set(_model_types(config))
    if types & _CONV1D and not types & _LINEAR:
        return True
    return False if types & _LINEAR and not types & _CONV1D else None


def experts_are_transposed(config: Mapping[str, Any]) -> bool | None:
    """Tell whether stacked experts are stored [experts, in, out]; None if it cannot be known.

    Args:
        config: The model's `config.json`; may be empty.
    """
    return True if set(_model_types(config)) & _TRANSPOSED_EXPERTS else None


def _model_types(config: Mapping[str, Any]) -> Iterator[str]:
    """Model types of the model and of the models that it is composed of."""
    if isinstance(config.get("model_type"), str):
        yield config["model_type"]
    for part in config.values():
        if isinstance(part, Mapping):
            yield from _model_types(part)
