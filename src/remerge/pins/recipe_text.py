"""Changing pins in a YAML file that people write: every other byte of it stays.

>>> text = with_pins(text, {"base": Pins(repo="owner/name", revision="…", files={…})}, where)

A YAML library that writes a file again joins lines, drops anchors and moves comments. Here the
library only says where an entry stands; the lines of its pins are replaced, and what comes out is
parsed again and compared with what was meant.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from remerge.errors import RecipeError, printable
from remerge.sources.pinned import PinnedFile
from remerge.yaml_text import parse_yaml


@dataclass(frozen=True)
class Pins:
    """What is written into a source's entry; a licence only where it is known and none stands.

    Files on disk have neither repository nor revision.
    """

    repo: str
    revision: str
    files: dict[str, PinnedFile]
    licence: str = ""


def read_document(text: str, where: str) -> CommentedMap:
    """The table that a file of conf/ is; RecipeError for anything else."""
    try:
        parse_yaml(text.encode())  # bounded; the other parser keeps comments, and knows no bound
        document = YAML().load(text)
    # A table as the key of a table, say, ends in a TypeError within the library.
    except (YAMLError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RecipeError(f"{where}: nested too deep to be genuine") from None
    if not isinstance(document, CommentedMap):
        raise RecipeError(f"{where}: is no table of entries")
    return document


def document_text(document: CommentedMap) -> str:
    """A document as a file of conf/ or of DVC, which writes lists in this way too."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1000
    yaml.indent(mapping=2, sequence=2, offset=0)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def read_entries(text: str, where: str) -> CommentedMap:
    """The sources of a recipe or suite, at the top or under `recipe`; RecipeError without any."""
    document = read_document(text, where)
    holder = document.get("recipe", document)
    entries = holder.get("sources") if isinstance(holder, CommentedMap) else None
    if not isinstance(entries, CommentedMap):
        raise RecipeError(f"{where}: has no `sources`")
    for name, entry in entries.items():
        if not isinstance(entry, CommentedMap):
            raise RecipeError(f"{where}: source {printable(name)!r} is not a table of entries")
    return entries


def with_pins(text: str, pins: Mapping[str, Pins], where: str) -> str:
    """`text` with the pins of the named sources; RecipeError where the file's form forbids it."""
    for name, pin in pins.items():
        before = _plain(read_entries(text, where))
        changed = _with_pin(text, name, pin, where)
        before[name]["files"] = _table(pin.files)
        if pin.repo:
            before[name] |= {"repo": pin.repo, "revision": pin.revision}
        if pin.licence:
            before[name].setdefault("licence", pin.licence)
        if _plain(read_entries(changed, where)) != before:
            raise RecipeError(
                f"{where}: source {printable(name)!r} is laid out in a way that cannot be "
                "rewritten; give repo, revision and files a line each"
            )
        text = changed
    return text


def _with_pin(text: str, name: str, pin: Pins, where: str) -> str:
    entry = read_entries(text, where)[name]
    if entry.fa.flow_style():
        raise RecipeError(f"{where}: source {printable(name)!r} stands on one line; give it lines")
    lines = text.splitlines(keepends=True)
    origin_line, column = entry.lc.key("repo" if pin.repo else "path")
    indent = " " * column
    # From the bottom up, so that the numbers of lines above stay what they are.
    block = [f"{indent}files:\n"] + [
        f"{indent}  {_key(file)}: {{sha256: {p.sha256}, size: {p.size}}}\n"
        for file, p in pin.files.items()
    ]
    edits: list[tuple[int, int, list[str]]] = []
    licence = (
        [f"{indent}licence: {pin.licence}\n"] if pin.licence and "licence" not in entry else []
    )
    if not pin.repo:
        edits += [(origin_line + 1, origin_line + 1, licence)] if licence else []
    elif "revision" in entry:
        at = entry.lc.key("revision")[0]
        edits.append((at, at + 1, [_with_value(lines[at], "revision", pin.revision), *licence]))
    else:
        edits.append(
            (origin_line + 1, origin_line + 1, [f"{indent}revision: {pin.revision}\n", *licence])
        )
    if pin.repo and entry["repo"] != pin.repo:
        named = _with_value(lines[origin_line], "repo", pin.repo)
        edits.append((origin_line, origin_line + 1, [named]))
    if "files" in entry:
        first = last = entry.lc.key("files")[0]
        while last + 1 < len(lines) and _within(lines[last + 1], column):
            last += 1
        edits.append((first, last + 1, block))
    else:
        end = max(entry.lc.key(key)[0] for key in entry)
        while end + 1 < len(lines) and _within(lines[end + 1], column):
            end += 1
        edits.append((end + 1, end + 1, block))
    for first, stop, new in sorted(edits, key=lambda edit: edit[:2], reverse=True):
        if first == len(lines) and lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines[first:stop] = new
    return "".join(lines)


def _key(name: str) -> str:
    """A file's name as a key: in quotes where YAML would read something else in it."""
    try:
        plain = parse_yaml(f"{name}: 0\n".encode()) == {name: 0}
    except ValueError:
        plain = False
    return name if plain else json.dumps(name, ensure_ascii=False)


def _with_value(line: str, key: str, value: str) -> str:
    """The line `key: …  # comment` with another value and the same comment."""
    return re.sub(
        rf"({key}:)[ \t]*(?:[^\s#][^#\n]*?)?([ \t]*(?:[ \t]#.*)?\n?)$",
        lambda match: f"{match.group(1)} {value}{match.group(2)}",
        line,
    )


def _within(line: str, column: int) -> bool:
    """Whether a line belongs to the value of the key above it; a list may begin at its column."""
    indent = _indent(line)
    return indent > column or (indent == column and line.lstrip().startswith("- "))


def _indent(line: str) -> int:
    """Columns before the text; -1 for an empty line, which ends a block of pins."""
    return len(line) - len(line.lstrip(" ")) if line.strip() else -1


def _table(files: Mapping[str, PinnedFile]) -> dict[str, Any]:
    return {name: {"sha256": pin.sha256, "size": pin.size} for name, pin in files.items()}


def _plain(value: Any) -> Any:
    """The same tables as plain dictionaries and lists, to be compared."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
