"""Reading a mergekit file: every document checked, every mistake named with its line.

>>> for merge in read_merges(Path("merge.yml")): print(merge.name, merge.method)

mergekit drops what it does not know in silence. Here a key that has no effect is an error that says
what was probably meant, or, with `lenient`, a note.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remerge.errors import RecipeError, printable
from remerge.merge.table import mergekit_defaults
from remerge.methods.method import Method
from remerge.methods.registry import METHODS, method_named
from remerge.recipes.mergekit.references import Reference, parse_reference
from remerge.recipes.merges import (
    Merge,
    Module,
    OutputSlice,
    SourceUse,
    TokenizerChoice,
    TokenSource,
)
from remerge.recipes.settings import NO_EFFECT, Misplaced, check_parameters
from remerge.schema import nearest, shown
from remerge.tensors.dtypes import from_torch_name
from remerge.yaml_text import Document, read_documents

Place = tuple[str | int, ...]

#: A file with one of these at the top is meant for mergekit.
_MERGEKIT = re.compile(r"^(merge_method|models|slices|modules)\s*:", re.MULTILINE)

_TOP = (
    "name",
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer",
    "tokenizer_source",
    "chat_template",
)
_MODULE = ("models", "slices", "parameters")
_SLICE = ("sources", "base_model", "parameters")
_SOURCE = ("model", "layer_range", "parameters")
_MODEL = ("model", "parameters")
_TOKENIZER = ("source", "tokens", "pad_to_multiple_of")
_TOKEN = ("source", "force")
#: What a level is called, for keys that stand at the wrong one.
_LEVELS = {
    "the top": _TOP,
    "a slice": _SLICE,
    "a source of a slice": _SOURCE,
    "a model": _MODEL,
    "tokenizer": _TOKENIZER,
}
_DTYPES = ("float16", "bfloat16", "float32")


def is_mergekit(path: Path) -> bool:
    """Whether a file says what to merge as mergekit does, well or badly; it need not exist."""
    try:
        text = path.read_text("utf-8", "replace") if path.is_file() else ""
    except OSError:
        return False
    return _MERGEKIT.search(text) is not None


def read_merges(path: Path, *, lenient: bool = False) -> list[Merge]:
    """Read all documents of a mergekit file.

    Args:
        path: The file.
        lenient: Note what has no effect in mergekit instead of refusing it.

    Raises:
        RecipeError: The first mistake, with file and line.
    """
    where = printable(path)
    try:
        documents = read_documents(path)
    except OSError as error:
        raise RecipeError(f"{where}: {error.strerror}") from None
    except ValueError as error:
        raise RecipeError(f"{where}: {' '.join(str(error).split())}") from None
    if not documents:
        raise RecipeError(f"{where}: holds no merge")
    merges = [
        _Reader(where, number if len(documents) > 1 else 0, document, lenient).read()
        for number, document in enumerate(documents, start=1)
    ]
    seen: dict[str | None, Merge] = {}
    for merge in merges:
        first = seen.setdefault(merge.name, merge)
        if first is not merge:
            line = merge.document.line(("name",))
            called = "have no name" if merge.name is None else f"are called {shown(merge.name)}"
            raise RecipeError(f"{where}:{line}: two documents {called}; give each its own `name:`")
    return merges


def read_tokenizer(value: Any, where: str) -> TokenizerChoice | None:
    """Read the tokenizer of a recipe's node: a model, `base` or `union`, or mergekit's table.

    Raises:
        RecipeError: It is something else; `where` says whose it is.
    """
    key = "tokenizer" if isinstance(value, Mapping) else "tokenizer_source"
    return _Reader(where, 0, Document({}, {}), False).tokenizer({key: value})


class _Reader:
    """Reads one document."""

    def __init__(self, where: str, number: int, document: Document, lenient: bool) -> None:
        self.where, self.number, self.document, self.lenient = where, number, document, lenient
        self.notes: list[str] = []

    def read(self) -> Merge:
        top = self.table(self.document.value, (), "a merge")
        if "merge_method" not in top:
            hint = next((nearest(k, ("merge_method",)) for k in top if isinstance(k, str)), "")
            raise self.wrong((), f"merge_method is missing{hint}")
        # Before the keys: what a misplaced key means depends on the method.
        try:
            method = method_named(top["merge_method"], "merge_method")
        except RecipeError as error:
            raise self.wrong(("merge_method",), str(error)) from None
        top = self.keys(top, _TOP, ())
        given = [key for key in ("models", "slices", "modules") if top.get(key)]
        if len(given) != 1:
            said = f"has {' and '.join(given)}" if given else "has none of them"
            raise self.wrong(
                (given[-1],) if given else (),
                f"a merge has exactly one of models, slices and modules; this one {said}",
            )
        base = self.reference(top.get("base_model"), ("base_model",))
        parameters = self.parameters(method, top.get("parameters"), ("parameters",), False)
        name = self.text(top.get("name"), ("name",))
        modules = self.modules(method, base, top, given[0])
        dtype = self.dtype(top.get("dtype"), ("dtype",))
        out_dtype = self.dtype(top.get("out_dtype"), ("out_dtype",))
        place = self.where
        if self.number:
            place += f": document {self.number}" + (f" ({printable(name, 60)})" if name else "")
        return Merge(
            place=place,
            name=name,
            method=method,
            base=base,
            modules=modules,
            parameters=parameters,
            dtype=out_dtype or dtype,
            tokenizer=self.tokenizer(top),
            chat_template=self.text(top.get("chat_template"), ("chat_template",)),
            defaults=mergekit_defaults(method.name),
            notes=tuple(dict.fromkeys(self.notes)),
            document=self.document,
        )

    def modules(
        self, method: Method, base: Reference | None, top: Mapping[str, Any], kind: str
    ) -> tuple[Module, ...]:
        if kind != "modules":
            return (self.module(method, base, top, (), None),)
        found = []
        for name, value in self.table(top["modules"], ("modules",), "modules").items():
            path = ("modules", name)
            entry = self.keys(self.table(value, path, "a module"), _MODULE, path)
            given = [key for key in ("models", "slices") if entry.get(key)]
            if len(given) != 1:
                raise self.wrong(path, "a module has either models or slices")
            found.append(self.module(method, base, entry, path, str(name)))
        return tuple(found)

    def module(
        self,
        method: Method,
        base: Reference | None,
        entry: Mapping[str, Any],
        path: Place,
        name: str | None,
    ) -> Module:
        parameters: Mapping[str, Any] = {}
        if path:
            here = (*path, "parameters")
            parameters = self.parameters(method, entry.get("parameters"), here, False)
        line = self.document.line(path)
        if entry.get("models"):
            here = (*path, "models")
            uses = [
                self.use(method, base, value, (*here, i), layered=False)
                for i, value in enumerate(self.listed(entry["models"], here))
            ]
            if base is not None and all(use.model != base for use in uses):
                uses.append(SourceUse(base, None, {}))
            part = OutputSlice(tuple(uses), None, {}, self.document.line(here))
            self.once(part, here)
            return Module(name, (part,), parameters, line)
        here = (*path, "slices")
        slices = [
            self.slice(method, base, value, (*here, i))
            for i, value in enumerate(self.listed(entry["slices"], here))
        ]
        return Module(name, tuple(slices), parameters, line)

    def slice(self, method: Method, base: Reference | None, value: Any, path: Place) -> OutputSlice:
        entry = self.keys(self.table(value, path, "a slice"), _SLICE, path)
        own = self.reference(entry.get("base_model"), (*path, "base_model"))
        here = (*path, "sources")
        if not entry.get("sources"):
            raise self.wrong(path, "a slice needs sources: a list of {model, layer_range}")
        base = own or base
        uses = [
            self.use(method, base, use, (*here, i), layered=True)
            for i, use in enumerate(self.listed(entry["sources"], here))
        ]
        if base is not None and method.base != "none" and all(use.model != base for use in uses):
            raise self.wrong(
                here,
                f"the base model {shown(str(base))} is no source of this slice; add it with its "
                "layer_range",
            )
        part = OutputSlice(
            tuple(uses),
            own,
            self.parameters(method, entry.get("parameters"), (*path, "parameters"), False),
            self.document.line(path),
        )
        self.once(part, here)
        return part

    def once(self, part: OutputSlice, path: Place) -> None:
        """Every model stands in a slice once: parameters are found by the model's name."""
        seen: set[Reference] = set()
        for position, use in enumerate(part.sources):
            if use.model in seen:
                raise self.wrong((*path, position), f"{shown(str(use.model))} stands here twice")
            seen.add(use.model)

    def use(
        self, method: Method, base: Reference | None, value: Any, path: Place, *, layered: bool
    ) -> SourceUse:
        if isinstance(value, str):
            raise self.wrong(path, f"{shown(value)} is a text; write `- model: {printable(value)}`")
        entry = self.table(value, path, "a model")
        entry = self.keys(entry, _SOURCE if layered else _MODEL, path)
        model = self.reference(entry.get("model"), (*path, "model"))
        if model is None:
            raise self.wrong(path, "model is missing")
        parameters = self.parameters(
            method, entry.get("parameters"), (*path, "parameters"), own=True
        )
        if model == base and method.base != "none" and parameters:
            self.notes.append(
                f"{self.at((*path, 'parameters'))}: {', '.join(parameters)} of "
                f"{printable(model)} has no effect: it is the base model"
            )
            parameters = {}
        layers = self.layers(entry.get("layer_range"), (*path, "layer_range")) if layered else None
        return SourceUse(model, layers, parameters)

    def layers(self, value: Any, path: Place) -> tuple[int, int]:
        plain = isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)
        if not plain or not 0 <= value[0] < value[1]:
            raise self.wrong(
                path,
                f"layer_range is {shown(value)}; expected [FIRST, END] with 0 <= FIRST < END, such "
                "as [0, 8] for the layers 0 to 7",
            )
        return value[0], value[1]

    def parameters(self, method: Method, value: Any, path: Place, own: bool) -> Mapping[str, Any]:
        if value is None:
            return {}
        given = {str(k): v for k, v in self.table(value, path, "parameters").items()}
        for key in given:
            if key not in {p.name for p in method.parameters} and key in _TOP:
                raise self.wrong((*path, key), f"{shown(key)} belongs at the top of the document")
        if NO_EFFECT in given:
            self.notes.append(f"{self.at((*path, NO_EFFECT))}: {NO_EFFECT} has no effect")
        try:
            return check_parameters(method, given, own, path, self.ineffective)
        except Misplaced as error:
            raise self.wrong(error.path, str(error)) from None

    def tokenizer(self, top: Mapping[str, Any]) -> TokenizerChoice | None:
        plain, table = top.get("tokenizer_source"), top.get("tokenizer")
        if plain is not None and table is not None:
            raise self.wrong(("tokenizer_source",), "both tokenizer and tokenizer_source; keep one")
        if plain is not None:
            return TokenizerChoice(self.token_model(plain, ("tokenizer_source",)))
        if table is None:
            return None
        path: Place = ("tokenizer",)
        entry = self.keys(self.table(table, path, "tokenizer"), _TOKENIZER, path)
        multiple = entry.get("pad_to_multiple_of")
        if multiple is not None and (type(multiple) is not int or not 0 < multiple <= 1 << 20):
            raise self.wrong(
                (*path, "pad_to_multiple_of"),
                f"pad_to_multiple_of is {shown(multiple)}; expected a whole number above 0",
            )
        tokens = {}
        written = entry.get("tokens")
        for text, value in self.table(written or {}, (*path, "tokens"), "tokens").items():
            tokens[str(text)] = self.token(value, (*path, "tokens", str(text)))
        source = entry.get("source")
        return TokenizerChoice(
            "union" if source is None else self.token_model(source, (*path, "source")),
            tokens,
            multiple,
        )

    def token_model(self, value: Any, path: Place) -> str | Reference:
        if value in ("union", "base"):
            return str(value)
        found = self.reference(value, path)
        assert found is not None
        return found

    def token(self, value: Any, path: Place) -> TokenSource:
        entry = self.keys(self.table(value, path, "a token"), _TOKEN, path)
        force = entry.get("force", False)
        if not isinstance(force, bool):
            raise self.wrong((*path, "force"), f"force is {shown(force)}; expected true or false")
        source, here = entry.get("source"), (*path, "source")
        if isinstance(source, Mapping) and source.get("kind") == "zero":
            return TokenSource("zero", force=force)
        if isinstance(source, Mapping) and source.get("kind") == "model_token":
            source = self.keys(source, ("kind", "model", "token", "token_id"), here)
            model = self.reference(source.get("model"), (*here, "model"))
            given = [k for k in ("token", "token_id") if source.get(k) is not None]
            if model is None or len(given) != 1:
                raise self.wrong(here, "a model_token has a model and either token or token_id")
            token = source[given[0]]
            if type(token) is not (str if given[0] == "token" else int):
                raise self.wrong((*here, given[0]), f"{given[0]} is {shown(token)}")
            return TokenSource("model_token", model, token, force)
        model = self.reference(source, here)
        if model is None:
            raise self.wrong(path, "source is missing: a model, or {kind: zero}")
        return TokenSource("model", model, force=force)

    def dtype(self, value: Any, path: Place) -> str | None:
        text = self.text(value, path)
        if text is None:
            return None
        plain = text.removeprefix("torch.")
        if plain not in _DTYPES:
            close = nearest(plain, _DTYPES)
            raise self.wrong(
                path, f"{path[-1]} is {shown(text)}; expected one of {', '.join(_DTYPES)}{close}"
            )
        return from_torch_name(plain)

    def reference(self, value: Any, path: Place) -> Reference | None:
        if value is None:
            return None
        try:
            return parse_reference(value)
        except RecipeError as error:
            raise self.wrong(path, str(error)) from None

    def text(self, value: Any, path: Place) -> str | None:
        if value is None or (isinstance(value, str) and value):
            return value
        raise self.wrong(path, f"{path[-1]} is {shown(value)}; expected a text")

    def table(self, value: Any, path: Place, what: str) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise self.wrong(path, f"{what} is {shown(value)}; expected a table of entries")
        return dict(value)

    def listed(self, value: Any, path: Place) -> Sequence[Any]:
        if not isinstance(value, list):
            raise self.wrong(path, f"{path[-1]} is {shown(value)}; expected a list")
        return value

    def keys(self, entry: Mapping[Any, Any], known: tuple[str, ...], path: Place) -> dict[str, Any]:
        """The entry without keys that mergekit would drop."""
        kept = {}
        for key, value in entry.items():
            if key in known:
                kept[key] = value
            else:
                self.ineffective((*path, key), f"unknown key {shown(key)}{_meant(key, known)}")
        return kept

    def ineffective(self, path: Place, text: str) -> None:
        """Refuse what mergekit drops in silence, or note it where the user accepts that."""
        if not self.lenient:
            raise self.wrong(path, text)
        self.notes.append(f"{self.at(path)}: {text}; it has no effect")

    def at(self, path: Place) -> str:
        if not self.document.lines:
            return ".".join(map(str, (self.where, *path)))
        return f"{self.where}:{self.document.line(path)}"

    def wrong(self, path: Place, text: str) -> RecipeError:
        return RecipeError(f"{self.at(path)}: {text}")


def _meant(key: object, known: tuple[str, ...]) -> str:
    """What an unknown key was probably meant to be."""
    if isinstance(key, str):
        parameters = {p.name for method in METHODS.values() for p in method.parameters}
        if key in parameters:
            return "; it is a parameter: move it under `parameters:`"
        for level, keys in _LEVELS.items():
            if key in keys and keys != known:
                return f"; it belongs to {level}"
        close = nearest(key, known) or nearest(key, parameters)
        if close:
            return close
    return f"; known are {', '.join(known)}"
