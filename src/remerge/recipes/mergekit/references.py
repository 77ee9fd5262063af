"""How mergekit names a model: `path[@revision][+adapter[@revision]]`.

>>> parse_reference("owner/name@main+owner/lora")
Reference(model='owner/name', revision='main', adapter='owner/lora', adapter_revision=None)
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from remerge.errors import RecipeError
from remerge.schema import nearest, shown


@dataclass(frozen=True)
class Reference:
    """A model by its path or hub id, and perhaps an adapter that is baked into it."""

    model: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None

    def __str__(self) -> str:
        """The reference as mergekit writes it."""
        text = _joined(self.model, self.revision)
        if self.adapter is None:
            return text
        return f"{text}+{_joined(self.adapter, self.adapter_revision)}"

    def parts(self, documents: Container[str | None]) -> Iterator[tuple[str, str | None, str]]:
        """Model and adapter with their revisions and kinds, but for the result of a document."""
        if self.revision is not None or self.model not in documents:
            yield self.model, self.revision, "model"
        if self.adapter is not None:
            yield self.adapter, self.adapter_revision, "adapter"

    @property
    def without_adapter(self) -> Reference:
        """The model alone."""
        return Reference(self.model, self.revision)


def parse_reference(value: object) -> Reference:
    """Read a reference: a text, or mergekit's table `{model, lora}`.

    Raises:
        RecipeError: It is neither; the text does not say where it stands.
    """
    if isinstance(value, str):
        model, *adapters = value.split("+")
        if len(adapters) > 1:
            raise RecipeError(f"{shown(value)} names more than one adapter; bake one after another")
        return Reference(*_path(model), *(_path(adapters[0]) if adapters else ()))
    if isinstance(value, Mapping):
        table: dict[Any, Any] = dict(value)
        model_path = _table_path(table.pop("model", None))
        adapter = table.pop("lora", None)
        table = {key: entry for key, entry in table.items() if entry is not None}
        if table:
            key = next(iter(table))
            raise RecipeError(
                f"a model has no key {shown(key)}{nearest(key, ('model', 'lora')) or ';'} "
                "known are model, lora"
            )
        return Reference(*model_path, *(_table_path(adapter) if adapter is not None else ()))
    raise RecipeError(f"{shown(value)} names no model; expected a path or a hub id")


def _path(text: str) -> tuple[str, str | None]:
    path, at, revision = text.strip().partition("@")
    if not path or "@" in revision or (at and not revision):
        raise RecipeError(f"{shown(text)} is not PATH or PATH@REVISION")
    return path, revision or None


def _table_path(value: object) -> tuple[str, str | None]:
    if isinstance(value, str):
        return _path(value)
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        revision = value.get("revision")
        if value.keys() <= {"path", "revision"} and isinstance(revision, str | None):
            return value["path"], revision
    raise RecipeError(f"{shown(value)} is not PATH or {{path: PATH, revision: REVISION}}")


def _joined(path: str, revision: str | None) -> str:
    return path if revision is None else f"{path}@{revision}"
