"""Pictures as SVG: heat maps by layer and kind of tensor, ranges, a line along the model.

Colours are classes of the page's style; places are rounded numbers. Each picture says in words what
it shows, and each mark carries its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from remerge.report.build import place_of
from remerge.report.markup import Markup, coordinate, decimal, element, join, percent
from remerge.report.scale import CLASSES, Scale

_LABEL = 106.0
_PLOT = 230.0
_ROW = 18.0


def short_kinds(kinds: Sequence[str]) -> dict[str, str]:
    """A short label for each kind of tensor: its last word, where that is not two kinds' own."""
    lasts = [kind.rpartition(".")[2] for kind in kinds]
    return {k: last if lasts.count(last) == 1 else k for k, last in zip(kinds, lasts, strict=True)}


def heat_map(title: str, values: Mapping[str, float], scale: Scale, digits: int = 3) -> Markup:
    """Layers from left to right, kinds of tensor from top to bottom, one cell a tensor.

    values  by tensor name, in state-dict order. Tensors outside of the layers have a row of their
            own, whose cell is as wide as all layers.
    """
    places = {name: place_of(name) for name in values}
    layers = sorted({layer for layer, _ in places.values() if layer is not None})
    kinds = list(dict.fromkeys(kind for layer, kind in places.values() if layer is not None))
    outside = [name for name, (layer, _) in places.items() if layer is None]
    labels = short_kinds([*kinds, *(places[name][1] for name in outside)])
    by_place = {place: name for name, place in places.items()}
    width = _PLOT / max(1, len(layers))
    gap = 1.5 if width > 8 else 0.0
    parts: list[Markup] = []
    for row, kind in enumerate(kinds):
        top = row * _ROW
        parts.append(_row_label(labels[kind], kind, top))
        for column, layer in enumerate(layers):
            name = by_place.get((layer, kind))
            if name is not None:
                left = _LABEL + column * width
                parts.append(_cell(name, values[name], scale, left, top, width - gap, digits))
    top = len(kinds) * _ROW
    if layers:
        parts.append(_layer_axis(layers, top, width))
        top += 16
    for name in outside:
        parts += [
            _row_label(labels[places[name][1]], name, top),
            _cell(name, values[name], scale, _LABEL, top, _PLOT - gap, digits),
        ]
        top += _ROW
    words = f"{title}: {_in_words(values, digits)}"
    picture = _svg(words, _LABEL + _PLOT, top, parts, "" if gap else "fine")
    return element("figure", element("figcaption", title), picture, class_="map")


def _in_words(values: Mapping[str, float], digits: int) -> str:
    if not values:
        return "nothing to show"
    low, high = min(values, key=lambda n: values[n]), max(values, key=lambda n: values[n])
    return (
        f"from {decimal(values[low], digits)} in {low} to {decimal(values[high], digits)} in {high}"
    )


def _svg(
    words: str,
    width: float,
    height: float,
    parts: Sequence[Markup],
    kind: str = "",
    top: float = 0.0,
) -> Markup:
    """A picture of `width` by `height`, and `top` more above its origin."""
    box = f"0 {coordinate(-top)} {coordinate(width)} {coordinate(height + top)}"
    return element(
        "svg",
        element("title", words),
        *parts,
        viewBox=box,
        role="img",
        aria_label=words,
        class_=kind or None,
    )


def _row_label(label: str, full: str, top: float) -> Markup:
    shown = label if len(label) <= 16 else f"{label[:15]}…"
    return element(
        "text", element("title", full), shown, x=_LABEL - 7, y=top + 12, class_="label end"
    )


def _cell(
    name: str, value: float, scale: Scale, left: float, top: float, width: float, digits: int
) -> Markup:
    colour = scale.class_of(value)
    text = decimal(value, digits)
    box = element(
        "rect",
        element("title", f"{name}: {text}"),
        x=left,
        y=top,
        width=width,
        height=_ROW - 1.5,
        rx=2 if width > 12 else None,
        class_=colour,
    )
    if width < 36:
        return box
    number = element("text", text, x=left + width / 2, y=top + 11.5, class_=f"on {colour}")
    return join(box, number)


def _layer_axis(layers: Sequence[int], top: float, width: float) -> Markup:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 10**6) if s * width >= 20)
    marks = [
        element("text", str(layer), x=_LABEL + (column + 0.5) * width, y=top + 10, class_="tick")
        for column, layer in enumerate(layers)
        if layer % step == 0
    ]
    return join(element("text", "layer", x=_LABEL - 7, y=top + 10, class_="tick end"), *marks)


def legend(scale: Scale, unit: str, digits: int = 3) -> Markup:
    """The ramp of a scale with its two ends."""
    swatches = [element("i", class_=f"{scale.prefix}{k}") for k in range(CLASSES)]
    note = f"{unit}{', ' if scale.note else ''}{scale.note}"
    return element(
        "p",
        element("span", decimal(scale.low, digits)),
        element("span", *swatches, class_="ramp", aria_hidden="true"),
        element("span", decimal(scale.high, digits)),
        element("span", note, class_="quiet"),
        class_="legend",
    )


def ranges(rows: Sequence[tuple[str, Sequence[tuple[str, str, float]]]], words: str) -> Markup:
    """For each row its marks (class, name, fraction) on a track from 0 to 100 percent.

    A line joins the first mark of class `best` to the one of class `final`.
    """
    left, width, step = 104.0, 520.0, 34.0
    parts: list[Markup] = []
    bottom = len(rows) * step
    for tenth in range(0, 11, 2):
        x = left + width * tenth / 10
        parts += [
            element("line", x1=x, x2=x, y1=0, y2=bottom, class_="grid"),
            element("text", f"{tenth * 10}", x=x, y=bottom + 16, class_="tick"),
        ]
    for position, (label, marks) in enumerate(rows):
        y = position * step + step / 2
        parts.append(element("text", label, x=left - 14, y=y + 4, class_="label end"))
        where = {kind: left + width * value for kind, _, value in marks}
        if "best" in where and "final" in where:
            kept = "gain" if where["final"] >= where["best"] else "loss"
            ends = {"x1": where["best"], "x2": where["final"]}
            parts.append(element("line", y1=y, y2=y, class_=f"span {kept}", **ends))
        for kind, name, value in marks:
            tip = element("title", f"{label}, {name}: {percent(value)}")
            x = left + width * value
            radius = 8 if kind == "base" else 6
            parts.append(element("circle", tip, cx=x, cy=y, r=radius, class_=f"mark {kind}"))
    return _svg(words, left + width + 16, bottom + 24, parts, "ranges")


def line_along(ratios: Mapping[str, float], words: str) -> Markup:
    """Shares in [0, 1] of the tensors, in state-dict order, over bands that show the layers."""
    left, width, height = 40.0, 680.0, 170.0
    names = list(ratios)
    step = width / max(1, len(names))
    parts: list[Markup] = []
    bands: list[tuple[int | None, int, int]] = []
    for position, name in enumerate(names):
        layer = place_of(name)[0]
        if bands and bands[-1][0] == layer:
            bands[-1] = (layer, bands[-1][1], position + 1)
        else:
            bands.append((layer, position, position + 1))
    every = next(s for s in (1, 2, 5, 10, 20, 10**6) if s * width >= 24 * len(bands))
    for layer, begin, end in bands:
        x, wide = left + begin * step, (end - begin) * step
        if layer is not None and layer % 2 == 0:
            parts.append(element("rect", x=x, y=0, width=wide, height=height, class_="band"))
        if layer is not None and layer % every == 0:
            parts.append(element("text", str(layer), x=x + wide / 2, y=height + 15, class_="tick"))
    for quarter in range(5):
        y = height * (1 - quarter / 4)
        parts += [
            element("line", x1=left, x2=left + width, y1=y, y2=y, class_="grid"),
            element("text", f"{quarter * 25}", x=left - 8, y=y + 4, class_="tick end"),
        ]
    points = [
        (left + (position + 0.5) * step, height * (1 - ratios[name]))
        for position, name in enumerate(names)
    ]
    path = Markup(" ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in points))
    parts.append(element("polyline", points=path, class_="curve"))
    radius = 3.0 if step > 8 else 1.6
    parts += [
        element(
            "circle",
            element("title", f"{name}: {percent(ratios[name])} % of the second part"),
            cx=x,
            cy=y,
            r=radius,
            class_="point",
        )
        for name, (x, y) in zip(names, points, strict=True)
    ]
    return _svg(words, left + width + 8, height + 22, parts, "along", top=8)


def shares(values: Sequence[tuple[str, float]], words: str) -> Markup:
    """One bar, parted by shares that sum to 1."""
    parts: list[Markup] = []
    x = 0.0
    for position, (name, value) in enumerate(values):
        width = 600 * max(0.0, value)
        tip = element("title", f"{name}: {percent(value)} %")
        parts.append(
            element(
                "rect",
                tip,
                x=x,
                y=0,
                width=max(0, width - 2),
                height=14,
                rx=3,
                class_=f"c{position % 8}",
            )
        )
        x += width
    return _svg(words, 600, 14, parts, "shares")
