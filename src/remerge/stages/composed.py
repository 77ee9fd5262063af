"""What `params.yaml` was composed of, recorded in it as `composed`, and the check of it by stages.

>>> composed:
...   overrides: [recipe=mine]
...   files: {conf/config.yaml: 0c6e…, conf/recipe/mine.yaml: 77ab…}
...   values: 9d41…

Plain `dvc repro` reads `params.yaml` and never composes it. So a stage compares the files of conf/
that were read, and the values that came out, with their digests: milliseconds, without Hydra. No
stage depends on the record: what it changes about a model is in the other values.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from remerge.errors import RecipeError, printable
from remerge.schema import Table
from remerge.yaml_text import read_yaml

KEY = "composed"


class Composed(Table):
    """The record: overrides as after `-S`, digests of the files of conf/, digest of the rest."""

    overrides: list[str]
    files: dict[str, str]
    values: str


def record(
    text: str, overrides: Sequence[str], files: Iterable[Path], conf: Path
) -> dict[str, Any]:
    """Describe a composition.

    Args:
        text: The parameters as YAML, without the record.
        overrides: What was given after `-S`.
        files: The files that were read.
        conf: The folder of configuration.

    Returns:
        The table that stands in `params.yaml` as `composed`.
    """
    names = sorted({path.resolve().relative_to(conf.resolve()).as_posix() for path in files})
    return {
        "overrides": list(overrides),
        "files": {f"conf/{name}": _digest(conf / name) or "" for name in names},
        "values": _values(yaml.safe_load(text)),
    }


def require_composed(params: Mapping[str, Any], folder: Path) -> None:
    """Refuse parameters that are not what conf/ composes to.

    Args:
        params: The parameters, as YAML gives them.
        folder: The project. One without `conf/config.yaml` composes nothing: nothing is refused.

    Raises:
        RecipeError: A file of conf/ that changed, or parameters that were edited; the line says
            which command composes them again.
    """
    if not (folder / "conf" / "config.yaml").is_file():
        return
    try:
        made = Composed.model_validate(params.get(KEY))
    except ValidationError:
        raise RecipeError(
            "params.yaml does not say what it was composed of; run `make params`, then "
            "`dvc repro`, or `dvc exp run`"
        ) from None
    settings = "".join(f" -S {shlex.quote(override)}" for override in made.overrides)
    again = printable(f"`dvc exp run{settings}`", 400)
    for name, digest in made.files.items():
        found = _digest(folder / name) if name.startswith("conf/") and ".." not in name else None
        if found is None:
            raise RecipeError(
                f"{printable(name)}, of which params.yaml was composed, is missing here; {again} "
                "composes it again (a queued experiment has what git knows: `git add conf` first)"
            )
        if found != digest:
            raise RecipeError(
                f"{printable(name)} has changed since params.yaml was composed, so this would "
                f"build the old parameters; {again} composes them again and builds what changed"
            )
    if _values(params) != made.values:
        raise RecipeError(
            "params.yaml was edited by hand, and the next composition would drop that; write the "
            "change into conf/ or behind `dvc exp run -S`, or undo it with `make params`"
        )


def overrides_in(params: Path) -> list[str]:
    """The overrides that some parameters were composed with; none where that is not known."""
    try:
        return Composed.model_validate(read_yaml(params)[KEY]).overrides
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _digest(path: Path) -> str | None:
    """SHA-256 of a text file whatever its line endings; None for one that cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    except OSError:
        return None


def _values(params: Mapping[str, Any]) -> str:
    rest = {str(key): value for key, value in params.items() if key != KEY}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()
