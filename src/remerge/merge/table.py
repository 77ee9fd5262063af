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

from remerge.errors import CheckpointError, RecipeError, printable
from remerge.merge.settings import place_of_layer, value_at
from remerge.methods.method import Method
from remerge.methods.registry import METHODS, method_named
from remerge.tensors.dtypes import KERNEL_CODE
from remerge.tensors.names import split_layer
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
    dtype: str,
    base: str | None = None,
    parameters: Mapping[str, Any] | None = None,
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
        dtype: safetensors type of the result.
        base: The base model of methods that have one. As a source of a slice it is no donor.
        parameters: Settings of the whole merge.
        defaults: Values in place of a method's own defaults, as for files imported from mergekit.
        label: What error messages call the merge.

    Raises:
        RecipeError: Unknown models or parameters, values out of range, layers that do not exist.
        CheckpointError: Tensors whose names or shapes do not fit.
    """
    chosen = method_named(method, label)
    if dtype not in KERNEL_CODE:
        raise RecipeError(f"{label}: dtype {printable(dtype, 40)!r} is not one of F16, BF16, F32")
    if not slices:
        raise RecipeError(f"{label}: there is nothing to merge")
    maker = _Maker(chosen, headers, dtype, parameters or {}, defaults or {}, label)
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


class _Maker:
    def __init__(
        self,
        method: Method,
        headers: Headers,
        dtype: str,
        parameters: Mapping[str, Any],
        defaults: Mapping[str, Any],
        label: str,
    ) -> None:
        self._method = method
        self._headers = headers
        self._dtype = dtype
        self._parameters = parameters
        self._defaults = {k: v for k, v in defaults.items() if k in _names(method)}
        self._label = label

    def slice_rows(
        self, part: Slice, base: str | None, layer: int, first: bool, last: bool
    ) -> tuple[list[Row], int]:
        uses = list(part.sources)
        if not uses:
            raise RecipeError(f"{self._label}: a slice has no sources")
        labels = [use.model for use in uses]
        if len(set(labels)) < len(labels):
            raise RecipeError(f"{self._label}: a model is named twice in one slice")
        if base is None or self._method.base == "none":
            base_use, donors = None, uses
        else:
            own = [use for use in uses if use.model == base]
            base_use = own[0] if own else Use(base, uses[0].layers)
            donors = [use for use in uses if use.model != base]
        where = self._label
        self._method.require_inputs(base_use is not None, len(donors), where)
        self._check_names(part, uses)
        models = [self._model(use) for use in ([base_use] if base_use else []) + donors]
        counts = {model.end - model.begin for model in models}
        if len(counts) > 1:
            raise RecipeError(
                f"{where}: the sources of a slice have {' and '.join(map(str, sorted(counts)))} "
                "layers; give them layer ranges of one length"
            )
        uses_here = (part, base_use, donors)
        outside = [*(models[0].before if first else []), *(models[0].after if last else [])]
        self._check_outside(uses_here, models, outside, first and last)
        count = counts.pop()
        rows = [
            self._row(uses_here, name, [name] * len(models), 0.0)
            for name in outside
            if name not in set(models[0].after)
        ]
        for number in range(count):
            place = place_of_layer(number, count)
            rows += self._layer_rows(uses_here, models, number, layer + number, place)
        if last:
            rows += [
                self._row(uses_here, name, [name] * len(models), 0.0) for name in models[0].after
            ]
        return rows, layer + count

    def _layer_rows(
        self,
        uses: tuple[Slice, Use | None, list[Use]],
        models: list[_Model],
        number: int,
        out: int,
        place: float,
    ) -> list[Row]:
        names = [model.layers[model.begin + number] for model in models]
        self._same_names(uses, [set(each) for each in names], f"layer {number}")
        return [
            self._row(uses, _in_layer(names[0][rest], rest, out), [n[rest] for n in names], place)
            for rest in names[0]
        ]

    def _check_outside(
        self,
        uses: tuple[Slice, Use | None, list[Use]],
        models: list[_Model],
        names: list[str],
        whole: bool,
    ) -> None:
        """Every model has the tensors outside of the layers, whatever the order of its files."""
        found = [{*model.before, *model.after} for model in models]
        if not whole:
            found = [each & set(names) for each in found]
        self._same_names(uses, found, "outside of the layers")

    def _same_names(
        self, uses: tuple[Slice, Use | None, list[Use]], names: list[set[str]], what: str
    ) -> None:
        _, base, donors = uses
        labels = [use.model for use in ([base] if base else []) + donors]
        for label, each in zip(labels[1:], names[1:], strict=True):
            for missing, verb in ((names[0] - each, "lacks"), (each - names[0], "has beyond")):
                if missing:
                    beyond = f" those of {labels[0]}" if verb == "has beyond" else ""
                    raise CheckpointError(
                        f"{self._label}: {printable(label)} {verb}{beyond} tensor "
                        f"{printable(min(missing))!r} ({what}); only models with the same tensors "
                        "can be merged"
                    )

    def _model(self, use: Use) -> _Model:
        if use.model not in self._headers:
            raise RecipeError(f"{self._label}: there is no model {printable(use.model)!r}")
        before: list[str] = []
        after: list[str] = []
        layers: dict[int, dict[str, str]] = {}
        for name in self._headers[use.model]:
            place = split_layer(name)
            if place is None:
                (after if layers else before).append(name)
            else:
                layers.setdefault(place[0], {})[place[1]] = name
        begin, end = use.layers or (0, max(layers, default=-1) + 1)
        absent = [number for number in range(begin, end) if number not in layers]
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
            (self._parameters, False, self._label),
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

    def _row(
        self,
        uses: tuple[Slice, Use | None, list[Use]],
        name: str,
        sources: Sequence[str],
        place: float,
    ) -> Row:
        part, base, donors = uses
        labels = [use.model for use in ([base] if base else []) + donors]
        inputs = [Source(label, tensor) for label, tensor in zip(labels, sources, strict=True)]
        infos = [self._headers[source.model][source.tensor] for source in inputs]
        self._check_tensors(inputs, infos)
        given: dict[str, Any] = {}
        for parameter in self._method.parameters:
            if parameter.scope == "merge":
                levels = [part.parameters, self._parameters, self._defaults]
                given[parameter.name] = self._value(parameter.name, levels, name, place)
                continue
            skip = 0 if base is None else 1
            given[parameter.name] = tuple(
                self._value(
                    parameter.name,
                    [use.parameters, part.parameters, self._parameters, self._defaults],
                    source,
                    place,
                )
                for use, source in zip(donors, sources[skip:], strict=True)
            )
        where = f"{self._label}: {printable(name)}"
        values = self._method.resolve(given, len(donors), where)
        return Row(
            tensor=name,
            shape=infos[0].shape,
            dtype=self._dtype,
            method=self._method.name,
            base=inputs[0] if base else None,
            models=tuple(inputs[1:] if base else inputs),
            parameters=tuple(sorted(values.items())),
        )

    def _value(
        self, parameter: str, levels: Sequence[Mapping[str, Any]], tensor: str, place: float
    ) -> Any:
        for level in levels:
            if parameter in level:
                found = value_at(level[parameter], tensor, place, f"{self._label}: {parameter}")
                if found is not None:
                    return found
        return None

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


def _in_layer(name: str, rest: str, number: int) -> str:
    """The name of the same tensor in layer `number`."""
    head = name[: len(name) - len(rest) - 1].rstrip("0123456789")
    return f"{head}{number}.{rest}"


def mergekit_defaults(method: str) -> dict[str, Any]:
    """The values that mergekit works with where they are not this library's defaults."""
    return {p.name: p.mergekit for p in METHODS[method].parameters if p.mergekit is not None}
