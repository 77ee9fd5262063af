"""The merges of the benchmark by method: parameters that this library and mergekit both take."""

from __future__ import annotations

from typing import Any

from remerge.methods.registry import METHODS as KNOWN

#: Name in the table of results: the method, and its parameters.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {"weight": 0.5}),
    "passthrough": ("passthrough", {}),
    "task_arithmetic": ("task_arithmetic", {"weight": 0.5}),
    "dare_linear": ("dare_linear", {"weight": 0.5, "density": 0.5}),
    "dare_ties": ("dare_ties", {"weight": 0.5, "density": 0.5}),
    "della": ("della", {"weight": 0.5, "density": 0.5}),
    "della_linear": ("della_linear", {"weight": 0.5, "density": 0.5}),
    "breadcrumbs": ("breadcrumbs", {"weight": 0.5, "density": 0.5}),
    "breadcrumbs_ties": ("breadcrumbs_ties", {"weight": 0.5, "density": 0.5}),
    "slerp": ("slerp", {"t": 0.5}),
    "nuslerp": ("nuslerp", {"weight": 0.5}),
    "nuslerp_rows": ("nuslerp", {"weight": 0.5, "nuslerp_flatten": False}),
    "multislerp": ("multislerp", {"weight": 0.5}),
    "karcher": ("karcher", {}),
    "model_stock": ("model_stock", {}),
    "model_stock_rows": ("model_stock", {"filter_wise": True}),
    "sce": ("sce", {"select_topk": 0.5}),
    "nearswap": ("nearswap", {"t": 0.001}),
    "arcee_fusion": ("arcee_fusion", {}),
}


def needs_base(method: str) -> bool:
    """Whether the first model is the base."""
    return KNOWN[method].base == "required"


def models_of(method: str, donors: int) -> int:
    """How many models a merge by the method takes, the base among them."""
    least, most = KNOWN[method].models
    number = max(least, min(donors, most or donors))
    return number + (1 if needs_base(method) else 0)
