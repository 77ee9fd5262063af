"""The pins of a recipe's sources: `conf/pins/NAME.yaml`, a lock file that `remerge pin` writes.

>>> pins = read_pins(Path("conf/pins"), ["tiny"])
>>> digest(pins["base"])
'5f0c…'

A recipe says which models it is made of; here stands what each of them is: repository, commit,
files, digests, sizes, licence. `params.yaml` holds a digest of each pin that is used, so `fetch`
runs again for a source whose bytes changed, and for no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from remerge.errors import RecipeError
from remerge.recipes.schema import is_path
from remerge.recipes.values import Name
from remerge.schema import Table, read_table, shown
from remerge.sources.pinned import parse_source, unpinned
from remerge.yaml_text import read_yaml

FOLDER = Path("conf/pins")


def _one_origin(pin: Pin) -> Pin:
    if bool(pin.repo) == bool(pin.path):
        raise ValueError("give either a repo of the hub or a path")
    return pin


class Pin(Table):
    """A source. Files, digests and revision may be missing until `remerge pin` fills them in."""

    kind: Literal["model", "adapter", "dataset"]
    repo: str = ""
    ref: str | None = None
    revision: str | None = None
    path: str = ""
    subfolder: str | None = None
    select: list[str] | None = None
    files: dict[str, dict[str, Any]] | None = None
    config: dict[str, Any] | None = None
    dequantize: bool = False
    licence: str | None = None
    expected_bytes: int | None = None


class PinsFile(Table):
    """A file of `conf/pins`."""

    sources: dict[Name, Annotated[Pin, AfterValidator(_one_origin)]]


def read_pins(folder: Path, names: Sequence[str]) -> dict[str, Pin]:
    """Read the pins of a recipe and its suite.

    Args:
        folder: `conf/pins`.
        names: Names of files there, without `.yaml`; one that does not exist holds no pin.

    Returns:
        The pins by the name of the source.

    Raises:
        RecipeError: A file that is not sound, or two pins of one name.
    """
    pins: dict[str, Pin] = {}
    for name in names:
        path = folder / f"{name}.yaml"
        if "/" in name or not path.is_file():
            continue
        where = f"conf/pins/{name}.yaml"
        for source, pin in read_pins_file(path, where).items():
            if source in pins:
                raise RecipeError(f"{where}: source {shown(source)} is pinned twice")
            pins[source] = pin
    return pins


def read_pins_file(path: Path, where: str) -> dict[str, Pin]:
    """Read one file of pins, which messages call `where`; RecipeError if it is not sound."""
    try:
        document = read_yaml(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).replace(str(path), where)
        raise RecipeError(f"{where}: {reason}") from None
    return read_table(PinsFile, document, where, separator=": ").sources


def table_of(pin: Pin) -> dict[str, Any]:
    """Return a pin as the table that it was read from."""
    return pin.model_dump(exclude_unset=True)


def digest(name: str, pin: Pin | None) -> str | None:
    """Return the SHA-256 of what decides the bytes of a source; None while it is not pinned.

    Its repository's name, licence and expected size decide none.
    """
    if pin is None or unpinned({name: table_of(pin)}):
        return None
    source = parse_source(name, table_of(pin))
    decides = {
        "kind": source.kind,
        "revision": source.revision,
        "subfolder": source.subfolder,
        "config": source.config,
        "files": {file: [entry.sha256, entry.size] for file, entry in source.files.items()},
        **({"dequantize": True} if source.dequantize else {}),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def check_uses(
    pins: Mapping[str, Pin], kinds: Mapping[str, str], references: Mapping[str, str]
) -> None:
    """Compare how sources are used with what is pinned.

    Args:
        pins: The pins.
        kinds: The kind as which each source is used.
        references: The id or path that the recipe gives for a source.

    Raises:
        RecipeError: A model that is pinned as an adapter, or another repository's pin.
    """
    for name, kind in kinds.items():
        pin = pins.get(name)
        if pin is None:
            continue
        if pin.kind != kind:
            raise RecipeError(
                f"recipe: {name} is used as a source of kind {kind}, and pinned as {pin.kind}"
            )
        reference = references.get(name)
        if reference is not None:
            wanted = reference if is_path(reference) else reference.partition("@")[0]
            if wanted != (pin.path if is_path(reference) else pin.repo):
                raise RecipeError(
                    f"recipe: {shown(reference)} is pinned under the name {name} as "
                    f"{shown(pin.repo or pin.path)}; give it a name of its own in conf/pins"
                )
