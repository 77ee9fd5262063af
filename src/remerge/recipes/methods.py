"""What a node of a recipe may say for each merge method: its statement, as a schema.

Names, ranges and defaults of parameters are those of `remerge.methods.registry`; nothing of them is
said again here. A parameter stands in the node, in a slice of it or, where each model has its own
value, at a model: the innermost holds. A value that a node leaves out is that of the section of the
parameters that is named after the method, where there is one, else the method's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model, field_validator
from pydantic_core import PydanticCustomError

from remerge.errors import RecipeError
from remerge.recipes.settings import Misplaced, check_setting
from remerge.recipes.statements import STATEMENTS
from remerge.recipes.values import Dtype, Share, Vocabulary
from remerge.schema import Table

if TYPE_CHECKING:
    from remerge.methods.method import Method, Parameter

Along = Literal["tensors", "layers"]
Blend = Literal["all", "layers", "no_layers"]


def _validator(parameter: Parameter, *, scalar: bool = False) -> BeforeValidator:
    """Accept a number, a list along the layers, or filters; only a number if `scalar`."""

    def check(value: Any) -> Any:
        if value is None and not scalar:
            return None
        try:
            if scalar:
                return parameter.check(value, "")
            return check_setting(parameter, value, (), _ineffective)
        except Misplaced as error:
            if isinstance(value, list | Mapping):
                raise PydanticCustomError("value_error", "{text}", {"text": str(error)}) from None
        except RecipeError:
            pass
        raise PydanticCustomError("parameter", "{range}", {"range": parameter.range})

    return BeforeValidator(check)


def _ineffective(path: tuple[str | int, ...], text: str) -> None:
    raise Misplaced(path, text)


def _fields(parameters: tuple[Parameter, ...]) -> dict[str, Any]:
    return {p.name: (Annotated[Any, _validator(p)], None) for p in parameters}


class _Parameters(Table):
    """A table that holds parameters among other entries."""

    def given(self) -> dict[str, Any]:
        """Return the parameters that are written here, by name."""
        other = type(self)._entries()
        found = {name: getattr(self, name) for name in type(self).model_fields if name not in other}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def _entries(cls) -> set[str]:
        """Names of what is no parameter."""
        plain: set[str] = set()
        for kind in cls.__mro__:
            if kind.__module__ == __name__ and kind in (Use, SourceUse, Slice, Module, Merge):
                plain |= set(kind.model_fields)
        return plain


class Use(_Parameters):
    """A model where it is used.

    Attributes:
        model: A node, a source of the pins, a hub id `owner/name`, or a local path that begins
            with `.` or `/`. None: the label under which the model stands.
        vocabulary: None: its rows are the base's. `truncate` leaves out rows beyond them, `map`
            moves each row to where the base has its token, `rows` takes rows by number, whatever
            tokens they are of.
    """

    model: str | None = None
    vocabulary: Vocabulary | None = None


class SourceUse(Use):
    """A model in a slice: `layers` [first, end) of it."""

    layers: Annotated[list[int], Field(min_length=2, max_length=2)]


class Slice(_Parameters):
    """Layers of the result, from the same number of layers of each of its models."""

    models: Annotated[Mapping[str, SourceUse], Field(min_length=1)]
    base: str | None = None


class Module(_Parameters):
    """A part of the model, with models or slices of its own."""

    models: Annotated[Mapping[str, Use], Field(min_length=1)] | None = None
    slices: Annotated[list[Slice], Field(min_length=1)] | None = None


class Merge(_Parameters):
    """A node of a recipe: some models, merged by one method.

    Attributes:
        method: The name of the method.
        models: The models by label, in order.
        slices: Instead of them: layers of the result, in order.
        modules: Instead of both: parts of the model by name.
        base: The model that the method measures the others against; None: the recipe's.
        dtype: The type of this node's result; None: the recipe's.
        tokenizer: Whose tokenizer the result has; None: the base's, else the first model's.
        chat_template: A template, the name of one, or `auto`.
        fuse: Whether the node is computed while another one reads it, without files of its own.
    """

    method: str
    models: Annotated[Mapping[str, Use], Field(min_length=1)] | None = None
    slices: Annotated[list[Slice], Field(min_length=1)] | None = None
    modules: Annotated[Mapping[str, Module], Field(min_length=1)] | None = None
    base: str | None = None
    dtype: Dtype | Literal["auto"] | None = None
    tokenizer: str | dict[str, Any] | None = None
    chat_template: str | None = None
    fuse: bool = False

    def uses(self) -> dict[str, Use]:
        """Return every model that the node names, by label."""
        found: dict[str, Use] = dict(self.models or {})
        parts = list((self.modules or {}).values())
        for part in parts:
            found |= part.models or {}
        for piece in [*(self.slices or []), *(s for part in parts for s in part.slices or [])]:
            found |= piece.models
        return found

    def bases(self) -> list[str]:
        """Return the base models that single slices name."""
        parts = list((self.modules or {}).values())
        pieces = [*(self.slices or []), *(s for part in parts for s in part.slices or [])]
        return [piece.base for piece in pieces if piece.base is not None]

    def tokenizer_models(self) -> list[str]:
        """Return the models that the node's tokenizer names."""
        table = self.tokenizer
        if not isinstance(table, Mapping):
            return [] if table in (None, "base", "union") else [str(table)]
        found = [table.get("source")]
        tokens = table.get("tokens")
        for rule in tokens.values() if isinstance(tokens, Mapping) else ():
            source = rule.get("source") if isinstance(rule, Mapping) else None
            found.append(source.get("model") if isinstance(source, Mapping) else source)
        return [each for each in found if isinstance(each, str) and each not in ("base", "union")]


class GradientSection(Table):
    """Defaults of the gradient merge: the parameters `gradient`.

    Attributes:
        name: Which of the recipe's titles the result has.
    """

    name: str
    values: Annotated[list[Share], Field(min_length=2)]
    along: Along
    blend: Blend
    containing: str

    @field_validator("values", mode="before")
    @classmethod
    def _two_values(cls, values: object) -> object:
        if not isinstance(values, list) or len(values) < 2:
            raise ValueError("expected at least two numbers")
        return values


class Gradient(Merge):
    """Gradient merge of exactly two models (BlockMerge_Gradient): its ratio along the tensors."""

    method: Literal["gradient"]
    values: Annotated[list[Share] | None, Field(min_length=2)] = None
    along: Along | None = None
    blend: Blend | None = None
    containing: str | None = None

    @field_validator("models")
    @classmethod
    def _two_models(cls, models: Mapping[str, Use]) -> Mapping[str, Use]:
        if len(models) != 2:
            raise ValueError(f"gradient merges two models, not {len(models)}")
        return models


def _node(method: Method) -> type[Merge]:
    """The schema of a node of a method, from the method's own statement."""
    own = tuple(p for p in method.parameters if p.scope == "model")
    name = "".join(part.capitalize() for part in method.name.split("_"))
    use: Any = create_model(f"{name}Use", __base__=Use, __module__=__name__, **_fields(own))
    source: Any = create_model(
        f"{name}SourceUse", __base__=SourceUse, __module__=__name__, **_fields(own)
    )
    everywhere = _fields(method.parameters)
    few = Field(min_length=1)
    stacked: Any = Annotated[Mapping[str, source], few]
    piece: Any = create_model(
        f"{name}Slice", __base__=Slice, __module__=__name__, models=(stacked, ...), **everywhere
    )
    models: Any = (Annotated[Mapping[str, use], few] | None, None)
    slices: Any = (Annotated[list[piece], few] | None, None)
    part: Any = create_model(
        f"{name}Module",
        __base__=Module,
        __module__=__name__,
        models=models,
        slices=slices,
        **everywhere,
    )
    called: Any = Literal[method.name]
    parts: Any = (Annotated[Mapping[str, part], few] | None, None)
    return create_model(
        name,
        __base__=Merge,
        __module__=__name__,
        __validators__={"some_weight": field_validator("models")(_some_weight)},
        method=(called, ...),
        models=models,
        slices=slices,
        modules=parts,
        **everywhere,
    )


def _some_weight(models: Mapping[str, Use] | None) -> Mapping[str, Use] | None:
    weights = [use.given().get("weight") for use in (models or {}).values()]
    if weights and all(weight == 0 for weight in weights):
        raise ValueError("the weights of all donors are 0")
    return models


#: The schema of a node by the name of its method.
METHODS: dict[str, type[Merge]] = {
    name: Gradient if name == "gradient" else _node(method) for name, method in STATEMENTS.items()
}


def _default(method: str, name: str) -> Any:
    """The validator of a parameter in a section of defaults: one value, which must be given."""
    known = {parameter.name: parameter for parameter in STATEMENTS[method].parameters}
    return _validator(known[name], scalar=True)


class TiesSection(Table):
    """Defaults of TIES in this repository: the parameters `ties`."""

    density: Annotated[float, _default("ties", "density")]
    lam: Annotated[float, _default("ties", "lambda"), Field(alias="lambda")]
    normalize: Annotated[bool, _default("ties", "normalize")]
    elect: Annotated[str, _default("ties", "elect")]
