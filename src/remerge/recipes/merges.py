"""A merge of named models, whichever language it was written in: what is planned and run.

`mergekit.reading` makes these of a mergekit file, `nodes` of the nodes of a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from remerge.methods.gradient import Gradient
from remerge.methods.method import Method
from remerge.recipes.mergekit.references import Reference
from remerge.yaml_text import Document

_NO_DOCUMENT = Document(None, {})


@dataclass(frozen=True)
class SourceUse:
    """A model in a slice.

    Attributes:
        model: Which one.
        layers: Its layers [first, end); None: all of them.
        parameters: Its own.
        vocabulary: A rule for its tokens: None, `truncate`, `map` or `rows`.
    """

    model: Reference
    layers: tuple[int, int] | None
    parameters: Mapping[str, Any]
    vocabulary: str | None = None


@dataclass(frozen=True)
class OutputSlice:
    """Layers of the result; `line` is where it stands in a file."""

    sources: tuple[SourceUse, ...]
    base: Reference | None
    parameters: Mapping[str, Any]
    line: int = 1


@dataclass(frozen=True)
class Module:
    """A part of the model by its name; None: the whole model."""

    name: str | None
    slices: tuple[OutputSlice, ...]
    parameters: Mapping[str, Any]
    line: int = 1


@dataclass(frozen=True)
class TokenSource:
    """Where the row of one token comes from.

    Attributes:
        kind: `zero`, `model` (the row of the same token) or `model_token` (that of another one).
        model: Whose row it is.
        token: Text or number of the other token.
        force: Also in models that have the token.
    """

    kind: str
    model: Reference | None = None
    token: str | int | None = None
    force: bool = False


@dataclass(frozen=True)
class TokenizerChoice:
    """The tokenizer of the result: `base`, `union` or a model's, and rules for single tokens."""

    source: str | Reference
    tokens: Mapping[str, TokenSource] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None


@dataclass(frozen=True)
class Merge:
    """One merge.

    Attributes:
        place: Where it is written: begins messages.
        name: How other merges refer to it.
        method: The merge method.
        base: The base model.
        modules: What is merged; one without a name unless modules were written.
        parameters: Those of the whole merge.
        dtype: safetensors type of the result; None: that of the inputs.
        tokenizer: None: that of the base model, or of the first model.
        chat_template: As written.
        defaults: Values in place of the method's own defaults.
        gradient: Of a gradient merge: the shares of its second model.
        notes: What was accepted and has no effect.
        document: Where it was read from a file, for lines.
    """

    place: str
    name: str | None
    method: Method
    base: Reference | None
    modules: tuple[Module, ...]
    parameters: Mapping[str, Any]
    dtype: str | None
    tokenizer: TokenizerChoice | None = None
    chat_template: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    gradient: Gradient | None = None
    notes: tuple[str, ...] = ()
    document: Document = _NO_DOCUMENT

    @property
    def file(self) -> str:
        """The place without the number of a document, for messages with a line."""
        return self.place.partition(": document")[0]

    def merged(self) -> list[Reference]:
        """The models whose tensors are merged, each once; the one that gives the config first."""
        found = [] if self.base is None else [self.base]
        for module in self.modules:
            for part in module.slices:
                found += [] if part.base is None else [part.base]
                found += [use.model for use in part.sources]
        return list(dict.fromkeys(found))

    def references(self) -> list[Reference]:
        """All models that it reads, those of its tokens and tokenizer included."""
        found = self.merged()
        if self.tokenizer is not None:
            if isinstance(self.tokenizer.source, Reference):
                found.append(self.tokenizer.source)
            found += [s.model for s in self.tokenizer.tokens.values() if s.model is not None]
        return list(dict.fromkeys(found))

    def vocabularies(self) -> dict[Reference, str]:
        """Rules for the tokens of single models."""
        uses = [use for module in self.modules for part in module.slices for use in part.sources]
        return {use.model: use.vocabulary for use in uses if use.vocabulary is not None}
