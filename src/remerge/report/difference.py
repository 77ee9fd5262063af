"""How two models differ, as a page: a cell for each tensor, layers from left to right.

>>> write_text("difference.html", difference_page(compare(a, b), "merged/p1", "merged/final"))
"""

from __future__ import annotations

from collections.abc import Sequence

from remerge.proof.diff import ModelDifference, TensorDifference
from remerge.report.drawing import heat_map, legend
from remerge.report.markup import Markup, decimal, element, table
from remerge.report.page import document
from remerge.report.scale import growing

#: Title, unit and digits of the pictures, in the order of `_numbers`.
_MAPS = (
    ("Elements that differ", "% of a tensor's elements (blocks, where it is quantised)", 3),
    ("Mean distance", "units in the last place", 3),
    ("Angle between the two", "1 − cosine", 2),
)


def difference_page(difference: ModelDifference, first: str, second: str) -> str:
    """The comparison of two models, which are called `first` and `second`, as HTML."""
    verdict = "The same to the bit" if difference.same else "Not the same"
    count, differing = len(difference.tensors), len(difference.differing)
    top = element(
        "header",
        element("p", "Two models compared", class_="eyebrow"),
        element("h1", verdict),
        element(
            "p", f"{first} and {second}: {differing} of {count} tensors differ.", class_="lead"
        ),
        class_="top",
    )
    sections = [_pictures(difference.tensors), _layers(difference), _others(difference)]
    return document(
        f"{first} and {second} compared",
        top,
        element("main", *(section for section in sections if section is not None)),
        element("footer", element("p", "Made by remerge diff.")),
    )


def _numbers(tensor: TensorDifference) -> tuple[float | None, float | None, float | None]:
    share = None if tensor.change else 100 * tensor.differing / max(1, tensor.items)
    angle = None if tensor.cosine is None else max(0.0, 1 - tensor.cosine)
    return share, tensor.mean_ulp, angle


def _pictures(tensors: Sequence[TensorDifference]) -> Markup | None:
    numbers = {tensor.name: _numbers(tensor) for tensor in tensors}
    drawn = []
    for index, (title, unit, digits) in enumerate(_MAPS):
        values = {name: v for name, of in numbers.items() if (v := of[index]) is not None}
        if any(values.values()):
            scale = growing(list(values.values()))
            picture = element("div", heat_map(title, values, scale, digits), class_="maps")
            drawn += [legend(scale, unit, digits), picture]
    if not drawn:
        return None
    return element("section", element("h2", "Where they differ"), *drawn, class_="card")


def _layers(difference: ModelDifference) -> Markup:
    rows = [
        element(
            "tr",
            element("th", layer.layer, scope="row"),
            element("td", f"{layer.differing_tensors} of {layer.tensors}"),
            element("td", "" if layer.max_ulp is None else str(layer.max_ulp)),
            element("td", "" if layer.mean_ulp is None else decimal(layer.mean_ulp)),
            element("td", "" if layer.cosine is None else f"{layer.cosine:.6f}"),
        )
        for layer in difference.layers()
    ]
    head = ["layer", "tensors that differ", "largest distance", "mean distance", "lowest cosine"]
    words = (
        "Distances are in units in the last place of the stored type: 1 is a rounding that went "
        "the other way. Two types, and quantised ones, have a cosine alone."
    )
    return element(
        "section",
        element("h2", "By layer"),
        element("p", words, class_="quiet"),
        table(head, rows, texts={"layer"}),
        class_="card",
    )


def _others(difference: ModelDifference) -> Markup | None:
    """What has no number: other types and shapes, and tensors that one model alone has."""
    lines = [f"{t.name}: {t.change}" for t in difference.tensors if t.change]
    lines += [f"{name}: only in the first" for name in difference.only_a]
    lines += [f"{name}: only in the second" for name in difference.only_b]
    if not lines:
        return None
    return element(
        "section",
        element("h2", "What cannot be compared bit by bit"),
        element("ul", *(element("li", line) for line in lines)),
        class_="card",
    )
