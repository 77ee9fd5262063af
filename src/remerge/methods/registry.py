"""Every merge method by name.

>>> METHODS["slerp"].parameters
"""

from __future__ import annotations

from difflib import get_close_matches

from remerge.errors import RecipeError, printable
from remerge.methods import (
    arcee_fusion,
    breadcrumbs,
    dare,
    della,
    karcher,
    linear,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    passthrough,
    sce,
    slerp,
    task_arithmetic,
    tensor_gradient,
    tensor_ties,
)
from remerge.methods.method import Method

_ALL = (
    linear.METHOD,
    task_arithmetic.METHOD,
    tensor_ties.METHOD,
    dare.DARE_LINEAR,
    dare.DARE_TIES,
    della.DELLA,
    della.DELLA_LINEAR,
    breadcrumbs.BREADCRUMBS,
    breadcrumbs.BREADCRUMBS_TIES,
    slerp.METHOD,
    nuslerp.METHOD,
    multislerp.METHOD,
    karcher.METHOD,
    model_stock.METHOD,
    sce.METHOD,
    nearswap.METHOD,
    arcee_fusion.METHOD,
    passthrough.METHOD,
    tensor_gradient.METHOD,
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def method_named(name: object, where: str = "merge") -> Method:
    """The method of that name; RecipeError with the nearest name for one that is not known."""
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    near = get_close_matches(str(name), METHODS, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(METHODS)}"
    raise RecipeError(f"{where}: there is no merge method {printable(name, 60)!r}; {hint}")
