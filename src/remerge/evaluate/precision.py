"""Make a float64 model compute in float64 throughout.

transformers keeps two steps in float32 whatever the type of the weights: the root-mean-square
norm and the angles of the rotary embedding (`modeling_llama.py` and its relatives). A float32 sum,
cosine or sine may differ in its last bit from one vector library to the next, and that step of 6e-8
is far above the noise of a float64 forward pass. With the two steps in float64 as well nothing of
that size is left: on the embedded models, logits of torch's default, AVX2 and AVX-512 code paths
over one and two threads were seen to differ by at most 5e-14, so a greedy answer or a counted score
moves only if a decision hangs on the fourteenth digit.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch


def _root_mean_square_norm(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Zhang and Sennrich 2019 (arXiv 1910.07467), eq. 4; hidden: (batch, tokens, width)."""
    variance = hidden.pow(2).mean(-1, keepdim=True)
    normed: torch.Tensor = module.weight * (
        hidden * torch.rsqrt(variance + module.variance_epsilon)
    )
    return normed


def _rotary_angles(
    module: Any, x: torch.Tensor, position_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine, each (batch, tokens, dim), of the angles at position_ids (batch, tokens)."""
    frequencies = module.frequencies_in_float64.to(x.device)
    angles = position_ids[:, :, None].to(torch.float64) * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * module.attention_scaling, angles.sin() * module.attention_scaling


def _frequencies(module: Any) -> torch.Tensor | None:
    """Inverse frequencies as transformers has them, in float64; None if they vary with the text.

    They stay rounded to float32, since the weights were trained with the rounded ones. For the
    default kind they are computed in float64 and rounded here, so that the last bit does not come
    from the power function of the machine's vector library.
    """
    if module.rope_type == "default":
        config = module.config
        parameters = getattr(config, "rope_parameters", None) or {}
        base = parameters.get("rope_theta")
        if base is None:
            return None
        count = module.inv_freq.numel()
        exact = [float(base) ** (-2.0 * i / (2 * count)) for i in range(count)]
        return torch.tensor(exact, dtype=torch.float64).to(torch.float32).to(torch.float64)
    if module.rope_type in ("linear", "llama3", "yarn"):
        frequencies: torch.Tensor = module.inv_freq.detach().to(torch.float64)
        return frequencies
    return None


def compute_in_float64(model: torch.nn.Module) -> None:
    """Replace the float32 steps of a model whose weights are float64, in place.

    Norms and rotary embeddings are found by what they hold, so relatives of Llama are covered; a
    rotary embedding whose frequencies depend on the length of the text stays as it is.
    """
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = MethodType(_root_mean_square_norm, module)
        elif kind.endswith("RotaryEmbedding") and hasattr(module, "rope_type"):
            frequencies = _frequencies(module)
            if frequencies is not None:
                module.frequencies_in_float64 = frequencies
                module.forward = MethodType(_rotary_angles, module)
