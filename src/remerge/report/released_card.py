"""The card of a release: of the formats those that are in it, and where the project is.

>>> released_card(card, {"": {}, "gguf_q8_0": {"model.gguf": "Mine.Q8_0.gguf"}}, origin)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from remerge.errors import RecipeError, printable
from remerge.quantize.formats import FORMATS
from remerge.report.markdown import code

_ROW = re.compile(r"\| `([a-z0-9_]+)` \|")
_REBUILD = "## Rebuild and verify\n"
_ADDRESS = re.compile(r"(https?|ssh|git)://[A-Za-z0-9._~:/@%+-]{1,300}|git@[\w.-]+:[\w./~-]{1,300}")


@dataclass(frozen=True)
class Origin:
    """Where a project is: `address` as `git clone` takes it, `commit` of 40 hexadecimal digits."""

    address: str = ""
    commit: str = ""

    def __post_init__(self) -> None:
        """Refuse what would not be understood, and an address that holds a password."""
        if self.address and (
            not _ADDRESS.fullmatch(self.address) or re.search(r"://[^/]*:[^/]*@", self.address)
        ):
            raise RecipeError(
                f"--project {printable(self.address, 80)}: expected an address without a password, "
                "such as https://example.org/me/project"
            )
        if self.commit and not re.fullmatch(r"[0-9a-f]{40}", self.commit):
            raise RecipeError(
                f"--commit {printable(self.commit, 60)}: expected the 40 digits that `git "
                "rev-parse HEAD` prints"
            )


def released_card(
    card: str, released: Mapping[str, Mapping[str, str]], origin: Origin | None
) -> str:
    """Write the card of a build as that of a release.

    Args:
        card: The card that the report made.
        released: For each format in the release the new names of its files, by those in the build.
        origin: Where the project is, if that is known.

    Returns:
        The card, whose tables of formats have the rows of the release alone.
    """
    sections = re.split(r"(?m)^(?=##? )", card)
    kept = [text for section in sections if (text := _section(section, released))]
    text = "".join(kept)
    if origin is None or not (origin.address or origin.commit):
        return text
    steps = [f"git clone {origin.address} project && cd project"] if origin.address else []
    steps += [f"git checkout {origin.commit}"] if origin.commit else []
    where = f"The project: {origin.address}\n\n" if origin.address else ""
    shell = "\n".join([*steps, "make setup && . .venv/bin/activate"])
    steps_shown = f"{_REBUILD}\n{where}```sh\n{shell}\n```\n"
    return text.replace(_REBUILD, steps_shown, 1)


def title_of(card: str) -> str:
    """Return the heading of a card as part of a file's name; empty for a card without one."""
    found = re.search(r"(?m)^# (.+)$", card)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", found[1].replace("\\", "")) if found else ""
    return plain.strip(".-")[:80]


def _section(section: str, released: Mapping[str, Mapping[str, str]]) -> str:
    """A section with the rows of released formats; empty for a table of which none is left."""
    lines, dropped, left = [], 0, 0
    for line in section.splitlines(keepends=True):
        row = _ROW.match(line)
        if row is None or row[1] not in FORMATS:
            lines.append(line)
            continue
        if row[1] not in released:
            dropped += 1
            continue
        left += 1
        (file,) = released[row[1]].values() or ("",)
        name = code(f"{row[1]}/{file}" if file else row[1])
        lines.append(f"| {name} |{line[row.end() :]}")
    return "" if dropped and not left and section.startswith("## Formats") else "".join(lines)
