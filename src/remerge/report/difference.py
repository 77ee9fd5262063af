"""How two models differ, as a page: a cell for each tensor, layers from left to right.

>>> write_text("difference.html", difference_page(compare(a, b), "merged/p1", "merged/final"))
"""

from __future__ import annotations

from collections.abc import Sequence

from remerge.proof.diff import ModelDifference, TensorDifference
from remerge.report.drawing import HeatMap, Legend, heat_map, legend
from remerge.report.rendering import render
from remerge.report.scale import growing

#: Title, unit and digits of the pictures, in the order of `_numbers`.
_MAPS = (
    ("Elements that differ", "% of a tensor's elements (blocks, where it is quantized)", 3),
    ("Mean distance", "units in the last place", 3),
    ("Angle between the two", "1 − cosine", 2),
)


def difference_page(difference: ModelDifference, first: str, second: str) -> str:
    """The comparison of two models, which are called `first` and `second`, as HTML."""
    return render(
        "difference.html.j2",
        difference=difference,
        first=first,
        second=second,
        maps=_maps(difference.tensors),
        others=_others(difference),
    )


def _numbers(tensor: TensorDifference) -> tuple[float | None, float | None, float | None]:
    share = None if tensor.change else 100 * tensor.differing / max(1, tensor.items)
    angle = None if tensor.cosine is None else max(0.0, 1 - tensor.cosine)
    return share, tensor.mean_ulp, angle


def _maps(tensors: Sequence[TensorDifference]) -> list[tuple[HeatMap, Legend]]:
    numbers = {tensor.name: _numbers(tensor) for tensor in tensors}
    made = []
    for index, (title, unit, digits) in enumerate(_MAPS):
        values = {name: v for name, of in numbers.items() if (v := of[index]) is not None}
        if any(values.values()):
            scale = growing(list(values.values()))
            made.append((heat_map(title, values, scale, digits), legend(scale, unit, digits)))
    return made


def _others(difference: ModelDifference) -> list[str]:
    """What has no number: other types and shapes, and tensors that one model alone has."""
    lines = [f"{t.name}: {t.change}" for t in difference.tensors if t.change]
    lines += [f"{name}: only in the first" for name in difference.only_a]
    return lines + [f"{name}: only in the second" for name in difference.only_b]
