"""YAML that somebody else may have written: bounded before it is built.

>>> read_yaml(Path("dvc.lock"))["stages"]

A parser that builds values follows every alias and recurses at every bracket: a kilobyte can become
gigabytes, and libyaml ends the whole process at some ten thousand levels. The stream of events
does neither, so depth and size are counted on it first.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SIZE_LIMIT = 64_000_000
DEPTH_LIMIT = 50
#: Values, with those behind an alias counted wherever it stands.
VALUE_LIMIT = 2_000_000
#: Characters of a number. One to the base of 60, such as 1:30, takes time by their square.
NUMBER_LIMIT = 1000
_NUMBER = frozenset("0123456789:._+-")
#: Lines such as `%TAG`, each of which libyaml compares with all before it.
DIRECTIVE_LIMIT = 100
_DIRECTIVE = re.compile("^%", re.MULTILINE)
_LINE_ENDS = re.compile("[\r\x85\u2028\u2029]")
# By libyaml where it is there: a lock of some thousand lines takes the other parser a second.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """The value in a YAML file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a regular file, not UTF-8, not YAML, too long, too deep or too wide;
            the text is one line without the path.
    """
    return parse_yaml(_read(path))


@dataclass(frozen=True)
class Document:
    """One document of a YAML file: its value, and the line of each entry by its path."""

    value: Any
    lines: dict[tuple[str | int, ...], int]

    def line(self, path: Sequence[object]) -> int:
        """The line of the entry at `path`, else of the nearest entry that holds it."""
        known = tuple(step for step in path if isinstance(step, str | int))
        while known and known not in self.lines:
            known = known[:-1]
        return self.lines.get(known, 1)


def read_documents(path: Path) -> list[Document]:
    """Read all documents of a YAML file with the line of every entry; empty ones are left out.

    Raises:
        OSError, ValueError: As `read_yaml`; ValueError also for a key that a table has twice,
            of which a parser would keep the last.
    """
    return parse_documents(_read(path))


def parse_documents(data: bytes) -> list[Document]:
    """The documents in `data`; see `read_documents`."""
    if len(data) > SIZE_LIMIT:
        raise ValueError(f"longer than {SIZE_LIMIT} bytes")
    try:
        text = data.decode()
        _bound(text, None)
        found = []
        loader = _LOADER(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                lines: dict[tuple[str | int, ...], int] = {}
                _note_lines(node, (), lines)
                value = loader.construct_document(node)
                if value is not None:
                    found.append(Document(value, lines))
        finally:
            loader.dispose()
        return found
    except yaml.YAMLError as error:
        raise ValueError(_reason(error)) from None
    except (AttributeError, LookupError, OverflowError, RecursionError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())}") from None


def _reason(error: yaml.YAMLError) -> str:
    """What is wrong, then where: `line 5, column 37: did not find expected ',' or ']'`."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return " ".join(str(error).split())
    context = getattr(error, "context", None)
    said = f"{problem} {context}" if context else str(problem)
    return f"line {mark.line + 1}, column {mark.column + 1}: {' '.join(said.split())}"


def _read(path: Path) -> bytes:
    # Without waiting: nobody may ever write to a FIFO.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise ValueError("not a regular file")
        return opened.read(SIZE_LIMIT + 1)


def _note_lines(
    node: yaml.Node, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]
) -> None:
    """The line of every entry below `node`; ValueError for a key that a table has twice."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for position, entry in enumerate(node.value):
            _note_lines(entry, (*path, position), lines)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, entry in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if seen.setdefault(key.value, line) != line or (*path, key.value) in lines:
                raise ValueError(
                    f"line {line}: key {key.value[:80]!r} stands here and in line {seen[key.value]}"
                )
            lines[*path, key.value] = line
            _note_lines(entry, (*path, key.value), lines)


def parse_yaml(data: bytes, *, scalar: Callable[[str], None] | None = None) -> Any:
    """The value that `data` describes; ValueError as for `read_yaml`.

    Args:
        data: UTF-8 text.
        scalar: Called with every text in it, keys included; may raise.
    """
    if len(data) > SIZE_LIMIT:
        raise ValueError(f"longer than {SIZE_LIMIT} bytes")
    try:
        text = data.decode()
        _bound(text, scalar)
        return yaml.load(text, _LOADER)  # noqa: S506 - both are safe loaders
    except yaml.YAMLError as error:
        raise ValueError(_reason(error)) from None
    # Values such as a date of month 13, or a table as the key of a table.
    except (AttributeError, LookupError, OverflowError, RecursionError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())}") from None


def _bound(text: str, scalar: Callable[[str], None] | None) -> None:
    """ValueError for a text that is too deep or, with its aliases followed, too large."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    count = 0
    if len(_DIRECTIVE.findall(_LINE_ENDS.sub("\n", text))) > DIRECTIVE_LIMIT:
        raise ValueError(f"more than {DIRECTIVE_LIMIT} lines that begin with %")
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"alias {event.anchor!r} stands for nothing, or for itself")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
            if len(event.value) > NUMBER_LIMIT and _NUMBER.issuperset(event.value):
                raise ValueError(f"has a number of {len(event.value)} characters")
            if scalar is not None:
                scalar(event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            count += 1
            open_nodes.append((event.anchor, count))
            if event.anchor:
                sizes.pop(event.anchor, None)
            if len(open_nodes) > DEPTH_LIMIT:
                raise ValueError(f"nested more than {DEPTH_LIMIT} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = count - before + 1
        if count > VALUE_LIMIT:
            raise ValueError(f"more than {VALUE_LIMIT} values, with aliases followed")
