"""Where the marks of a picture stand: heat maps, ranges, a line along the model, shares.

Each function returns the places of one picture; `templates/pictures.html.j2` draws them as SVG.
Colors are classes of the page's style. Each picture says in words what it shows, and each mark
carries its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from remerge.report.build import place_of
from remerge.report.numbers import coordinate, decimal, percent, size
from remerge.report.scale import CLASSES, Scale

_LABEL = 106.0
_PLOT = 230.0
_ROW = 18.0
_LONGEST_LABEL = 16


@dataclass(frozen=True)
class Label:
    """A word beside a row; `full` is the whole of it."""

    text: str
    full: str
    y: float


@dataclass(frozen=True)
class Cell:
    """One tensor of a heat map; `number` is shown where there is room."""

    tip: str
    color: str
    x: float
    y: float
    width: float
    number: str


@dataclass(frozen=True)
class Tick:
    """A number at an axis."""

    text: str
    x: float
    y: float


@dataclass(frozen=True)
class HeatMap:
    """Layers from left to right, kinds of tensor from top to bottom, one cell a tensor."""

    title: str
    words: str
    width: float
    height: float
    fine: bool
    labels: tuple[Label, ...]
    cells: tuple[Cell, ...]
    layer_axis: Tick | None
    ticks: tuple[Tick, ...]
    row_height: float = _ROW - 1.5
    label_x: float = _LABEL - 7


@dataclass(frozen=True)
class Legend:
    """The ramp of a scale with its two ends."""

    low: str
    high: str
    colors: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Mark:
    """A mark of `kind` (base, best, final) on a range."""

    kind: str
    tip: str
    x: float
    radius: float


@dataclass(frozen=True)
class Range:
    """One row of marks; `spans` join base and best with final: (x1, x2, gain or loss)."""

    label: str
    y: float
    marks: tuple[Mark, ...]
    spans: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Ranges:
    """Rows of marks on a track from 0 to 100 percent."""

    words: str
    width: float
    height: float
    label_x: float
    ticks: tuple[Tick, ...]
    rows: tuple[Range, ...]


@dataclass(frozen=True)
class Point:
    """A tensor on a curve."""

    tip: str
    x: float
    y: float


@dataclass(frozen=True)
class Curve:
    """Shares along the model over bands that show its layers."""

    words: str
    width: float
    height: float
    plot_height: float
    grid: tuple[Tick, ...]
    grid_x: tuple[float, float]
    bands: tuple[tuple[float, float], ...]
    layers: tuple[Tick, ...]
    path: str
    points: tuple[Point, ...]
    radius: float


@dataclass(frozen=True)
class Share:
    """One part of a bar, and its color."""

    tip: str
    color: str
    x: float
    width: float


@dataclass(frozen=True)
class Shares:
    """One bar, divided by shares that sum to 1."""

    words: str
    parts: tuple[Share, ...]


@dataclass(frozen=True)
class Choice:
    """A format in the picture of size against loss; its name stands at `label_y`."""

    name: str
    tip: str
    kind: str
    x: float
    y: float
    label_y: float


@dataclass(frozen=True)
class Tradeoff:
    """Named points: size against divergence, or a parameter against a score."""

    words: str
    width: float
    height: float
    plot_height: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    y_grid: tuple[float, float]
    choices: tuple[Choice, ...]


def short_kinds(kinds: Sequence[str]) -> dict[str, str]:
    """A short label for each kind of tensor: its last word, where that is not two kinds' own."""
    lasts = [kind.rpartition(".")[2] for kind in kinds]
    return {k: last if lasts.count(last) == 1 else k for k, last in zip(kinds, lasts, strict=True)}


def heat_map(title: str, values: Mapping[str, float], scale: Scale, digits: int = 3) -> HeatMap:
    """The heat map of `values`, which are by tensor name in state-dict order.

    Tensors outside of the layers have a row of their own, whose cell is as wide as all layers.
    """
    places = {name: place_of(name) for name in values}
    layers = sorted({layer for layer, _ in places.values() if layer is not None})
    kinds = list(dict.fromkeys(kind for layer, kind in places.values() if layer is not None))
    outside = [name for name, (layer, _) in places.items() if layer is None]
    short = short_kinds([*kinds, *(places[name][1] for name in outside)])
    by_place = {place: name for name, place in places.items()}
    step = _PLOT / max(1, len(layers))
    gap = 1.5 if step > 8 else 0.0
    labels: list[Label] = []
    cells: list[Cell] = []

    def cell(name: str, x: float, y: float, width: float) -> Cell:
        text = decimal(values[name], digits)
        number = text if width >= 36 else ""
        return Cell(f"{name}: {text}", scale.class_of(values[name]), x, y, width, number)

    for row, kind in enumerate(kinds):
        y = row * _ROW
        labels.append(_label(short[kind], kind, y))
        for column, layer in enumerate(layers):
            name = by_place.get((layer, kind))
            if name is not None:
                cells.append(cell(name, _LABEL + column * step, y, step - gap))
    top = len(kinds) * _ROW
    axis = Tick("layer", _LABEL - 7, top + 10) if layers else None
    every = next(s for s in (1, 2, 5, 10, 20, 50, 100, 10**6) if s * step >= 20)
    ticks = tuple(
        Tick(str(layer), _LABEL + (column + 0.5) * step, top + 10)
        for column, layer in enumerate(layers)
        if layer % every == 0
    )
    top += 16 if layers else 0
    for name in outside:
        labels.append(_label(short[places[name][1]], name, top))
        cells.append(cell(name, _LABEL, top, _PLOT - gap))
        top += _ROW
    return HeatMap(
        title=title,
        words=f"{title}: {_in_words(values, digits)}",
        width=_LABEL + _PLOT,
        height=top,
        fine=not gap,
        labels=tuple(labels),
        cells=tuple(cells),
        layer_axis=axis,
        ticks=ticks,
    )


def _label(short: str, full: str, top: float) -> Label:
    shown = short if len(short) <= _LONGEST_LABEL else f"{short[: _LONGEST_LABEL - 1]}…"
    return Label(shown, full, top + 12)


def _in_words(values: Mapping[str, float], digits: int) -> str:
    if not values:
        return "nothing to show"
    low, high = min(values, key=lambda n: values[n]), max(values, key=lambda n: values[n])
    return (
        f"from {decimal(values[low], digits)} in {low} to {decimal(values[high], digits)} in {high}"
    )


def legend(scale: Scale, unit: str, digits: int = 3) -> Legend:
    """The legend of `scale`, whose values are in `unit`."""
    return Legend(
        decimal(scale.low, digits),
        decimal(scale.high, digits),
        tuple(f"{scale.prefix}{k}" for k in range(CLASSES)),
        f"{unit}{', ' if scale.note else ''}{scale.note}",
    )


def ranges(rows: Sequence[tuple[str, Sequence[tuple[str, str, float]]]], words: str) -> Ranges:
    """For each row its marks (kind, name, fraction)."""
    left, width, step = 104.0, 520.0, 34.0
    bottom = len(rows) * step
    made = []
    for position, (label, marks) in enumerate(rows):
        where = {kind: left + width * value for kind, _, value in marks}
        spans = tuple(
            (where[kind], where["final"], "gain" if where["final"] >= where[kind] else "loss")
            for kind in ("best", "base")
            if kind in where and "final" in where
        )
        placed = tuple(
            Mark(
                kind,
                f"{label}, {name}: {percent(value)}",
                left + width * value,
                8 if kind == "base" else 6,
            )
            for kind, name, value in marks
        )
        made.append(Range(label, position * step + step / 2, placed, spans))
    ticks = tuple(
        Tick(f"{tenth * 10}", left + width * tenth / 10, bottom + 16) for tenth in range(0, 11, 2)
    )
    return Ranges(words, left + width + 16, bottom + 24, left - 14, ticks, tuple(made))


def line_along(ratios: Mapping[str, float], words: str) -> Curve:
    """Shares in [0, 1] of the tensors, in state-dict order."""
    left, width, height = 40.0, 680.0, 170.0
    names = list(ratios)
    step = width / max(1, len(names))
    bands: list[tuple[int | None, int, int]] = []
    for position, name in enumerate(names):
        layer = place_of(name)[0]
        if bands and bands[-1][0] == layer:
            bands[-1] = (layer, bands[-1][1], position + 1)
        else:
            bands.append((layer, position, position + 1))
    every = next(s for s in (1, 2, 5, 10, 20, 10**6) if s * width >= 24 * len(bands))
    places = [
        (left + (position + 0.5) * step, height * (1 - ratios[name]))
        for position, name in enumerate(names)
    ]
    return Curve(
        words=words,
        width=left + width + 8,
        height=height + 22,
        plot_height=height,
        grid=tuple(Tick(f"{q * 25}", left - 8, height * (1 - q / 4)) for q in range(5)),
        grid_x=(left, left + width),
        bands=tuple(
            (left + begin * step, (end - begin) * step)
            for layer, begin, end in bands
            if layer is not None and layer % 2 == 0
        ),
        layers=tuple(
            Tick(str(layer), left + (begin + end) * step / 2, height + 15)
            for layer, begin, end in bands
            if layer is not None and layer % every == 0
        ),
        path=" ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in places),
        points=tuple(
            Point(f"{name}: {percent(ratios[name])} % of the second part", x, y)
            for name, (x, y) in zip(names, places, strict=True)
        ),
        radius=3.0 if step > 8 else 1.6,
    )


def shares(values: Sequence[tuple[str, float]], words: str) -> Shares:
    """The bar of shares by name, which sum to 1."""
    parts = []
    x = 0.0
    for position, (name, value) in enumerate(values):
        width = 600 * max(0.0, value)
        tip = f"{name}: {percent(value)} %"
        parts.append(Share(tip, f"c{position % 8}", x, max(0.0, width - 2)))
        x += width
    return Shares(words, tuple(parts))


def tradeoff(formats: Mapping[str, tuple[int, float]], recommended: str) -> Tradeoff:
    """Formats by name: (bytes, divergence in nats); the recommended one is marked."""
    left, width, height, label_width, line = 56.0, 560.0, 240.0, 130.0, 13.0
    largest = max(count for count, _ in formats.values()) or 1
    worst = max(loss for _, loss in formats.values()) or 1.0
    placed: list[Choice] = []
    for name, (count, loss) in sorted(formats.items(), key=lambda item: (-item[1][1], item[0])):
        x, y = left + width * count / largest, height * (1 - loss / worst)
        label_y = y + 4
        for other in placed:  # names go below one another where the points are close
            if abs(other.x - x) < label_width and label_y < other.label_y + line:
                label_y = other.label_y + line
        tip = f"{name}: {size(count)}, divergence {decimal(1000 * loss)} thousandths of a nat"
        kind = "final" if name == recommended else "best"
        placed.append(Choice(name, tip, kind, x, y, label_y))
    bottom = max([height, *(choice.label_y for choice in placed)])
    return Tradeoff(
        words="size of each format against its divergence from the unquantized model",
        width=left + width + label_width,
        height=bottom + 40,
        plot_height=bottom,
        x_ticks=tuple(
            Tick(size(largest * quarter // 4), left + width * quarter / 4, bottom + 16)
            for quarter in range(5)
        ),
        y_ticks=tuple(
            Tick(decimal(1000 * worst * half / 2), left - 8, height * (1 - half / 2) + 4)
            for half in range(3)
        ),
        y_grid=(left, left + width),
        choices=tuple(placed),
    )


def scatter(points: Mapping[tuple[float, float], str], x_name: str, y_name: str) -> Tradeoff:
    """Names of experiments by (parameter, score); both axes reach from the least to the most."""
    left, width, height, label_width = 56.0, 560.0, 240.0, 130.0
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low_x, low_y = min(xs), min(ys)
    wide, high = (max(xs) - low_x) or 1.0, (max(ys) - low_y) or 1.0
    best = max(points, key=lambda point: point[1])
    placed = tuple(
        Choice(
            name,
            f"{name}: {x_name} {decimal(x)}, {y_name} {decimal(y)}",
            "final" if (x, y) == best else "best",
            left + width * (x - low_x) / wide,
            height * (1 - (y - low_y) / high),
            height * (1 - (y - low_y) / high) + 4,
        )
        for (x, y), name in sorted(points.items())
    )
    return Tradeoff(
        words=f"{y_name} of each experiment against {x_name}",
        width=left + width + label_width,
        height=height + 40,
        plot_height=height,
        x_ticks=tuple(
            Tick(decimal(low_x + wide * quarter / 4), left + width * quarter / 4, height + 16)
            for quarter in range(5)
        ),
        y_ticks=tuple(
            Tick(decimal(low_y + high * half / 2), left - 8, height * (1 - half / 2) + 4)
            for half in range(3)
        ),
        y_grid=(left, left + width),
        choices=placed,
    )
