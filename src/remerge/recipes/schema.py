"""The schema of a recipe and of the parameters around it.

>>> recipe = read_recipe({"name": "mine", "dtype": "float16", "base": "meta-llama/Llama-2-13b-hf",
...     "merges": {"out": {"method": "ties", "models": ["elinas/chronos-13b-v2", "./mine"]}},
...     "result": "out"})
>>> list(recipe.merges["out"].models)
['chronos-13b-v2', 'mine']

Types, ranges and defaults of all parameters stand here and in `methods`; composition, stages and
commands read them. Whatever is wrong is a RecipeError of one line: the key, the value, the range,
and for a misspelling the nearest name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny

from remerge.errors import RecipeError
from remerge.recipes.methods import METHODS, GradientSection, Merge, TiesSection
from remerge.recipes.values import Bytes, Dtype, Name, number
from remerge.schema import Table, nearest, read_table, shown

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?", re.ASCII)
_ADDRESS = r"^(auto|[A-Za-z0-9._-]+:[0-9]{1,5})$"


class Bake(Table):
    """A node of a recipe: a LoRA adapter, baked into a model."""

    model: str
    adapter: str


class FormatUse(Table):
    """What is done with a quantized format of the result: `score` it in its own runtime."""

    score: bool = False


class Recipe(Table):
    """What is merged with what.

    Attributes:
        name: The name of the recipe.
        dtype: The type that every node writes; `auto`: that of its inputs.
        base: The base model of merges that need one and name none.
        bakes: LoRAs baked into models, by node.
        merges: Merges by node.
        result: The node whose model is released.
        formats: Quantized formats to make of the result; `exact` and `all` stand for several.
        score: Which models are scored: `all`, or a list of labels, nodes and `base`.
        pins: The files of `conf/pins` that pin the sources; None: the one of the recipe's name.
        title: What the result is called.
        titles: Titles by the name of the gradient.
        prompt: How the result is prompted.
        licence: Its licence.
        tags: What people search for; with them (a list, which may be empty) GGUF files state
            licence, base models, tags and size.
        shard_bytes: The size limit of an output file.
        assumptions: What the recipe chose because nothing is published, by topic.
    """

    name: str
    title: str = ""
    titles: dict[str, str] | None = None
    pins: str | list[str] | None = None
    prompt: str = "raw"
    dtype: Dtype | Literal["auto"]
    shard_bytes: Bytes = 2_000_000_000
    licence: str | None = None
    tags: list[str] | None = None
    base: str | None = None
    bakes: dict[Name, Bake] = Field(default={})
    merges: Annotated[dict[Name, SerializeAsAny[Merge]], Field(min_length=1)]
    result: str
    formats: dict[str, FormatUse] = Field(default={})
    score: Literal["all"] | list[str] = Field(default=[])
    assumptions: dict[str, str] | list[str] | None = None


class FormatSettings(Table):
    """What the formats of one container read."""

    name: Annotated[str, Field(min_length=1)] | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    calibration: Annotated[str, Field(min_length=1)] | None = None
    texts: Annotated[str, Field(min_length=1)]
    measure: bool


class Quantize(Table):
    """Settings of all formats, and those that each container reads."""

    calibration: Annotated[str, Field(min_length=1)]
    texts: Annotated[str, Field(min_length=1)]
    measure: bool
    gguf: FormatSettings
    ggml: FormatSettings
    gptq: FormatSettings


class Execution(Table):
    """Where the work runs and how sources come: no part of any result."""

    backend: Literal["local", "ray"] = "local"
    downloads: Annotated[int, number(1, whole=True)] = 2
    keep_downloads: bool = False
    address: Annotated[str, Field(pattern=_ADDRESS)] = "auto"
    cpus: Annotated[int, number(1, whole=True)] = 1
    memory: Annotated[int, number(0, whole=True)] = 0
    retries: Annotated[int, number(0, whole=True)] = 3
    in_flight: Annotated[int, number(1, whole=True)] | None = None
    score_memory: Annotated[int, number(1, whole=True)] | None = None
    score_timeout: Annotated[int, number(1, whole=True)] = 600


def read_recipe(table: object) -> Recipe:
    """Read a recipe as it is written.

    Args:
        table: The recipe as YAML gives it. Models may be a list or a table by label.

    Returns:
        The recipe; every model has a label of its own.

    Raises:
        RecipeError: The first thing that is wrong.
    """
    written = dict(_table(table, "recipe"))
    if isinstance(written.get("merges"), Mapping):
        written["merges"] = {
            name: _read_merge(entry, f"recipe.merges.{shown_key(name)}")
            for name, entry in written["merges"].items()
        }
    formats = written.get("formats")
    if isinstance(formats, list) and all(isinstance(name, str) for name in formats):
        written["formats"] = {name: {} for name in formats}
    elif isinstance(formats, Mapping):
        written["formats"] = {n: {} if use is None else use for n, use in formats.items()}
    for key in ("bakes", "formats"):
        if written.get(key, {}) is None:
            del written[key]
    return read_table(Recipe, written, "recipe")


def pins_names(recipe: Recipe) -> list[str]:
    """Return the names of the files of pins of a recipe."""
    if recipe.pins is None:
        return [recipe.name]
    return [recipe.pins] if isinstance(recipe.pins, str) else list(recipe.pins)


def read_section(model: Any, params: Mapping[str, Any], name: str) -> Any:
    """Read one section of the parameters by its schema; RecipeError where it is missing."""
    if name not in params:
        raise RecipeError(f"{name} is missing; compose the parameters again (`make params`)")
    return read_table(model, params[name], name)


def label_of(reference: str) -> str:
    """Return the label of a model that is named by a reference: the last part of an id or path."""
    if is_plain(reference):
        return reference
    last = reference.partition("@")[0].rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_-]", "_", last).lstrip("-")[:64] or "model"


def is_plain(reference: str) -> bool:
    """Return whether a reference is the name of a node or source, not an id or a path."""
    return not is_hub(reference) and not is_path(reference)


def is_hub(reference: str) -> bool:
    """Return whether a reference is an id of the hub, `owner/name` or `owner/name@revision`."""
    return _HUB.fullmatch(reference) is not None and not reference.startswith(".")


def is_path(reference: str) -> bool:
    """Return whether a reference is a local path: it begins with `.`, `~` or `/`."""
    return reference.startswith(("/", "./", "../", "~/"))


def shown_key(name: object) -> str:
    """Return a key as part of a dotted place; what is no plain text is shown as a value."""
    return name if isinstance(name, str) and name.isprintable() else shown(name)


def _read_merge(entry: object, where: str) -> Merge:
    written = dict(_table(entry, where))
    method = written.get("method")
    if not isinstance(method, str) or method not in METHODS:
        known = ", ".join(METHODS)
        guess = nearest(method, METHODS) if isinstance(method, str) else ""
        raise RecipeError(f"{where}.method is {shown(method)}; expected one of {known}{guess}")
    _read_models(written, where)
    modules = written.get("modules")
    if isinstance(modules, Mapping):
        written["modules"] = dict(modules)
        for name, module in modules.items():
            place = f"{where}.modules.{shown_key(name)}"
            written["modules"][name] = dict(_table(module, place))
            _read_models(written["modules"][name], place)
    given = [key for key in ("models", "slices", "modules") if written.get(key) is not None]
    if len(given) > 1:
        raise RecipeError(f"{where} has {' and '.join(given)}; keep one of them")
    if not given:
        raise RecipeError(f"{where}.models is missing")
    return read_table(METHODS[method], written, where)


def _read_models(written: dict[str, Any], where: str) -> None:
    """Models by label, in a node or a module and in their slices."""
    if "models" in written:
        written["models"] = _models(written["models"], f"{where}.models")
    if isinstance(written.get("slices"), list):
        slices = [dict(_table(s, f"{where}.slices[{i}]")) for i, s in enumerate(written["slices"])]
        for i, piece in enumerate(slices):
            if "models" in piece:
                piece["models"] = _models(piece["models"], f"{where}.slices[{i}].models")
        written["slices"] = slices


def _models(value: object, where: str) -> dict[str, Any]:
    """Models by label, from a list of them or a table."""
    entries: list[tuple[str, dict[str, Any]]] = []
    if isinstance(value, Mapping):
        for key, use in value.items():
            if not isinstance(key, str):
                raise RecipeError(f"{where}: key {shown(key)} is no text")
            table = {} if use is None else dict(_table(use, f"{where}.{shown_key(key)}"))
            if not is_plain(key):
                table.setdefault("model", key)
            entries.append((label_of(key), table))
    elif isinstance(value, list):
        for position, use in enumerate(value):
            place = f"{where}[{position}]"
            if isinstance(use, str):
                entries.append((label_of(use), {} if is_plain(use) else {"model": use}))
                continue
            table = dict(_table(use, place))
            if not isinstance(table.get("model"), str):
                raise RecipeError(
                    f"{place} names no model; to change one of a list, write the models as a "
                    "table: {NAME: {density: 0.5}}"
                )
            entries.append((label_of(table["model"]), table))
    else:
        raise RecipeError(f"{where} is {shown(value)}; expected a list or table of models")
    labels = [label for label, _ in entries]
    for label in labels:
        if labels.count(label) > 1:
            raise RecipeError(
                f"{where}: {shown(label)} stands there twice; give each a name of its own: "
                "{NAME: {model: …}}"
            )
    for label, table in entries:
        if len(label) > 64 or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", label):
            raise RecipeError(
                f"{where}: name {shown(label)} must be 1 to 64 letters, digits, '_', '-' "
                "and must not begin with '-'"
            )
        table.setdefault("model", label)
    return dict(entries)


def _table(value: object, where: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where} is {shown(value)}; expected a table of entries")
    return value


#: Sections of the parameters that have a schema of their own.
SECTIONS: dict[str, type[Table]] = {
    "ties": TiesSection,
    "gradient": GradientSection,
    "quantize": Quantize,
    "execution": Execution,
}


def nearest_setting(name: str) -> str:
    """Return `; did you mean 'ties.density'?` for a key that is written without its section."""
    known = {
        info.alias or field: f"{section}.{info.alias or field}"
        for section, model in SECTIONS.items()
        for field, info in model.model_fields.items()
    }
    close = difflib.get_close_matches(name[:200], known, n=1, cutoff=0.75)
    return f"; did you mean {known[close[0]]!r}?" if close else ""
