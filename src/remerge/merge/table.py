"""The merge table: every output tensor with its method, inputs, parameters and type.

>>> table = make_table("slerp", [Slice((Use("a"), Use("b")))], headers, base="a", dtype="F16",
...                    parameters={"t": [0, 0.5, 1]})
>>> print(table.text()); table.digest()

Slices, layer ranges, gradients and filters are resolved here, from names and shapes alone. So a
whole merge can be printed, checked and hashed before a weight is read, and run row by row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remerge.architectures.layer_number import layer_list, split_layer
from remerge.errors import CheckpointError, RecipeError, printable
from remerge.merge.settings import place_of_layer, value_at
from remerge.methods.method import REQUIRED, Method
from remerge.methods.registry import METHODS, method_named
from remerge.tensors.dtypes import KERNEL_CODE, promoted
from remerge.tensors.safetensors import TensorInfo

#: The tensors of every model, by label, in state-dict order.
Headers = Mapping[str, Mapping[str, TensorInfo]]


@dataclass(frozen=True)
class Use:
    """A model in a slice: `layers` [first, last) of it, all by default, with its own settings."""

    model: str
    layers: tuple[int, int] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Layers of the result that come from the same layers of each of `sources`.

    base        the base model of this slice, where it is not that of the merge
    parameters  settings for this slice
    """

    sources: tuple[Use, ...]
    base: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A tensor of a model."""

    model: str
    tensor: str


@dataclass(frozen=True)
class Row:
    """One output tensor: what is computed of what, and how.

    parameters  resolved values by name, sorted; one of scope `model` is a tuple in model order
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    method: str
    base: Source | None
    models: tuple[Source, ...]
    parameters: tuple[tuple[str, Any], ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        """All input tensors, the base's first."""
        return (*(() if self.base is None else (self.base,)), *self.models)

    def as_json(self) -> dict[str, Any]:
        """The row as plain data."""
        return {
            "tensor": self.tensor,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "method": self.method,
            "base": None if self.base is None else [self.base.model, self.base.tensor],
            "models": [[source.model, source.tensor] for source in self.models],
            "parameters": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in self.parameters
            },
        }


@dataclass(frozen=True)
class Table:
    """The rows in the order of the result's state dict."""

    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def digest(self) -> str:
        """SHA-256 over all rows."""
        total = hashlib.sha256()
        for row in self.rows:
            text = json.dumps(row.as_json(), sort_keys=True, separators=(",", ":"))
            total.update(text.encode() + b"\n")
        return total.hexdigest()

    def text(self) -> str:
        """One line a tensor, for people."""
        return "\n".join(_line(row) for row in self.rows)

    def layers(self) -> int:
        """The number of layers of the result."""
        numbers = {place[0] for row in self.rows if (place := split_layer(row.tensor))}
        return len(numbers)


def _line(row: Row) -> str:
    def shown(source: Source) -> str:
        own = "" if source.tensor == row.tensor else f":{source.tensor}"
        return printable(f"{source.model}{own}")

    shape = "×".join(map(str, row.shape)) or "scalar"
    base = f" on {shown(row.base)}" if row.base else ""
    values = " ".join(
        f"{name}={_number(value)}" for name, value in row.parameters if value is not None
    )
    models = ", ".join(shown(source) for source in row.models)
    return f"{printable(row.tensor)} {row.dtype} {shape} {row.method}({models}){base} {values}"


def _number(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_number(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def make_table(
    method: str,
    slices: Sequence[Slice],
    headers: Headers,
    *,
    dtype: str | None,
    base: str | None = None,
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    defaults: Mapping[str, Any] | None = None,
    label: str = "merge",
) -> Table:
    """Resolve a merge into rows.

    Args:
        method: Name of the merge method.
        slices: Layers of the result in order. A merge of whole models is one slice without layer
            ranges. Tensors before the layers come from the first slice, those after them from the
            last one.
        headers: Tensors of every model that is named, in state-dict order.
        dtype: safetensors type of the result; None: that of the inputs, the smallest that holds
            them all where they differ.
        base: The base model of methods that have one. As a source of a slice it is no donor.
        parameters: Settings of the whole merge, or several tables of them, the narrowest first.
        defaults: Values in place of a method's own defaults, as for files imported from mergekit;
            REQUIRED for a parameter that must be given.
        label: What error messages call the merge.

    Raises:
        RecipeError: Unknown models or parameters, values out of range, layers that do not exist.
        CheckpointError: Tensors whose names or shapes do not fit.
    """
    chosen = method_named(method, label)
    if dtype is not None and dtype not in KERNEL_CODE:
        raise RecipeError(f"{label}: dtype {printable(dtype, 40)!r} is not one of F16, BF16, F32")
    if not slices:
        raise RecipeError(f"{label}: there is nothing to merge")
    levels = (parameters,) if isinstance(parameters, Mapping) else tuple(parameters)
    maker = _Maker(chosen, headers, dtype, levels, defaults or {}, label)
    if len(slices) == 1 and all(use.layers is None for use in slices[0].sources):
        return Table(tuple(maker.whole_rows(slices[0], slices[0].base or base)))
    rows: list[Row] = []
    layer = 0
    for number, part in enumerate(slices):
        first, last = number == 0, number == len(slices) - 1
        found, layer = maker.slice_rows(part, part.base or base, layer, first, last)
        rows += found
    return Table(tuple(rows))


@dataclass(frozen=True)
class _Model:
    """A model's tensors before, in and after its layers, and the layers that take part."""

    before: list[str]
    layers: dict[int, dict[str, str]]
    after: list[str]
    begin: int
    end: int


#: A slice with its base and its donors.
_Uses = tuple[Slice, Use | None, list[Use]]


class _Maker:
    def __init__(
        self,
        method: Method,
        headers: Headers,
        dtype: str | None,
        levels: Sequence[Mapping[str, Any]],
        defaults: Mapping[str, Any],
        label: str,
    ) -> None:
        self._method = method
        self._headers = headers
        self._dtype = dtype
        self._levels = list(levels)
        self._defaults = {k: v for k, v in defaults.items() if k in _names(method)}
        self._label = label

    def whole_rows(self, part: Slice, base: str | None) -> list[Row]:
        """Rows of a merge of whole models, which may have several lists of layers."""
        uses = self._uses(part, base)
        labels = _labels(uses)
        tensors = self._tensors(labels[0])
        self._same_names(uses, [set(self._tensors(label)) for label in labels], "")
        counts: dict[str, int] = {}
        for name in tensors:
            place, within = split_layer(name), layer_list(name)
            if place is not None and within is not None:
                counts[within] = max(counts.get(within, 0), place[0] + 1)
        rows = []
        for name in tensors:
            place, within = split_layer(name), layer_list(name)
            at = 0.0
            if place is not None and within is not None:
                at = place_of_layer(place[0], counts[within])
            rows.append(self._row(uses, name, [name] * len(labels), at))
        return rows

    def _uses(self, part: Slice, base: str | None) -> _Uses:
        """Base and donors of a slice, as many as the method takes."""
        sources = list(part.sources)
        if not sources:
            raise RecipeError(f"{self._label}: a slice has no sources")
        labels = [use.model for use in sources]
        if len(set(labels)) < len(labels):
            raise RecipeError(f"{self._label}: a model is named twice in one slice")
        base_use, donors = None, sources
        if base is not None and self._method.base != "none":
            own = [use for use in sources if use.model == base]
            base_use = own[0] if own else Use(base, sources[0].layers)
            donors = [use for use in sources if use.model != base]
        self._method.require_inputs(base_use is not None, len(donors), self._label)
        self._check_names(part, sources)
        return part, base_use, donors

    def slice_rows(
        self, part: Slice, base: str | None, layer: int, first: bool, last: bool
    ) -> tuple[list[Row], int]:
        uses = self._uses(part, base)
        _, base_use, donors = uses
        models = [self._model(use) for use in ([base_use] if base_use else []) + donors]
        counts = {model.end - model.begin for model in models}
        if len(counts) > 1:
            raise RecipeError(
                f"{self._label}: the sources of a slice have "
                f"{' and '.join(map(str, sorted(counts)))} layers; give them layer ranges of one "
                "length"
            )
        outside = [*(models[0].before if first else []), *(models[0].after if last else [])]
        self._check_outside(uses, models, outside, first and last)
        count = counts.pop()
        after = set(models[0].after)
        rows = [
            self._row(uses, name, [name] * len(models), 0.0)
            for name in outside
            if name not in after
        ]
        for number in range(count):
            place = place_of_layer(number, count)
            rows += self._layer_rows(uses, models, number, layer + number, place)
        if last:
            rows += [self._row(uses, name, [name] * len(models), 0.0) for name in models[0].after]
        return rows, layer + count

    def _layer_rows(
        self,
        uses: _Uses,
        models: list[_Model],
        number: int,
        out: int,
        place: float,
    ) -> list[Row]:
        names = [model.layers[model.begin + number] for model in models]
        self._same_names(uses, [set(each) for each in names], f" (layer {number})")
        return [
            self._row(uses, _in_layer(names[0][rest], rest, out), [n[rest] for n in names], place)
            for rest in names[0]
        ]

    def _check_outside(
        self,
        uses: _Uses,
        models: list[_Model],
        names: list[str],
        whole: bool,
    ) -> None:
        """Every model has the tensors outside of the layers, whatever the order of its files."""
        found = [{*model.before, *model.after} for model in models]
        if not whole:
            found = [each & set(names) for each in found]
        self._same_names(uses, found, " (outside of the layers)")

    def _same_names(self, uses: _Uses, names: list[set[str]], what: str) -> None:
        labels = _labels(uses)
        for label, each in zip(labels[1:], names[1:], strict=True):
            for missing, verb in ((names[0] - each, "lacks"), (each - names[0], "has beyond")):
                if missing:
                    beyond = f" those of {printable(labels[0])}" if verb == "has beyond" else ""
                    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                    raise CheckpointError(
                        f"{self._label}: {printable(label)} {verb}{beyond} tensor "
                        f"{printable(min(missing))!r}{what}{more}; only models with the same "
                        "tensors can be merged"
                    )

    def _tensors(self, model: str) -> Mapping[str, TensorInfo]:
        if model not in self._headers:
            raise RecipeError(f"{self._label}: there is no model {printable(model)!r}")
        return self._headers[model]

    def _model(self, use: Use) -> _Model:
        before: list[str] = []
        after: list[str] = []
        layers: dict[int, dict[str, str]] = {}
        lists: set[str | None] = set()
        for name in self._tensors(use.model):
            place = split_layer(name)
            if place is None:
                (after if layers else before).append(name)
            else:
                lists.add(layer_list(name))
                layers.setdefault(place[0], {})[place[1]] = name
        if len(lists) > 1:
            raise RecipeError(
                f"{self._label}: {printable(use.model)} has {len(lists)} lists of layers "
                f"({', '.join(printable(each, 60) for each in sorted(map(str, lists)))}); a layer "
                "range has to say of which, so give each its own entry under `modules:`"
            )
        begin, end = use.layers or (0, max(layers, default=-1) + 1)
        # By number first: whoever wrote the range may have claimed a billion layers.
        absent = end - begin > len(layers) or any(n not in layers for n in range(begin, end))
        if begin < 0 or end < begin or absent:
            raise RecipeError(
                f"{self._label}: {printable(use.model)} has no layers [{begin}, {end}); it has "
                f"{len(layers)}"
            )
        return _Model(before, layers, after, begin, end)

    def _check_names(self, part: Slice, uses: Sequence[Use]) -> None:
        """Every parameter is one of the method's, at a place where it can stand."""
        scopes = {p.name: p for p in self._method.parameters}
        for settings, own, where in (
            *((level, False, self._label) for level in self._levels),
            (part.parameters, False, f"{self._label}: slice"),
            *((use.parameters, True, f"{self._label}: {printable(use.model)}") for use in uses),
        ):
            for name in settings:
                self._method.parameter(name, where)
                if own and scopes[name].scope == "merge":
                    raise RecipeError(
                        f"{where}: {name} is one value for the whole merge; move it to the "
                        "parameters of the merge"
                    )

    def _row(self, uses: _Uses, name: str, sources: Sequence[str], place: float) -> Row:
        part, base, donors = uses
        inputs = [Source(label, n) for label, n in zip(_labels(uses), sources, strict=True)]
        infos = [self._headers[source.model][source.tensor] for source in inputs]
        self._check_tensors(inputs, infos)
        given: dict[str, Any] = {}
        for parameter in self._method.parameters:
            if parameter.scope == "merge":
                levels = [part.parameters, *self._levels]
                given[parameter.name] = self._value(parameter.name, levels, name, place, "")
                continue
            skip = 0 if base is None else 1
            given[parameter.name] = tuple(
                self._value(
                    parameter.name,
                    [use.parameters, part.parameters, *self._levels],
                    source,
                    place,
                    f" of {printable(use.model)}",
                )
                for use, source in zip(donors, sources[skip:], strict=True)
            )
        where = f"{self._label}: {printable(name)}"
        values = self._method.resolve(given, len(donors), where)
        return Row(
            tensor=name,
            shape=infos[0].shape,
            dtype=self._dtype or promoted(info.dtype for info in infos),
            method=self._method.name,
            base=inputs[0] if base else None,
            models=tuple(inputs[1:] if base else inputs),
            parameters=tuple(sorted(values.items())),
        )

    def _value(
        self,
        parameter: str,
        levels: Sequence[Mapping[str, Any]],
        tensor: str,
        place: float,
        whose: str,
    ) -> Any:
        for level in levels:
            if parameter in level:
                found = value_at(level[parameter], tensor, place, f"{self._label}: {parameter}")
                if found is not None:
                    return found
        default = self._defaults.get(parameter)
        if default == REQUIRED:
            raise RecipeError(
                f"{self._label}: {parameter}{whose} has no value for {printable(tensor)}; give one "
                "for every tensor, behind filters as a last entry {value: …}"
            )
        return default

    def _check_tensors(self, sources: Sequence[Source], infos: Sequence[TensorInfo]) -> None:
        for source, info in zip(sources, infos, strict=True):
            what = f"{self._label}: {printable(source.model)}: tensor {printable(source.tensor)!r}"
            if info.dtype not in KERNEL_CODE:
                raise CheckpointError(f"{what} is {info.dtype}; merges need F16, BF16 or F32")
            if info.shape != infos[0].shape:
                raise CheckpointError(
                    f"{what} has shape {list(info.shape)}, {printable(sources[0].model)} has "
                    f"{list(infos[0].shape)}"
                )


def _names(method: Method) -> set[str]:
    return {parameter.name for parameter in method.parameters}


def _labels(uses: _Uses) -> list[str]:
    """The models of a slice, the base first."""
    _, base, donors = uses
    return [use.model for use in ([base] if base else []) + donors]


def _in_layer(name: str, rest: str, number: int) -> str:
    """The name of the same tensor in layer `number`."""
    head = name[: len(name) - len(rest) - 1].rstrip("0123456789")
    return f"{head}{number}.{rest}"


def mergekit_defaults(method: str) -> dict[str, Any]:
    """The values that mergekit works with where they are not this library's defaults."""
    return {p.name: p.mergekit for p in METHODS[method].parameters if p.mergekit is not None}
