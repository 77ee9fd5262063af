"""Models of the hub that a mergekit file names: pinned in a file beside it, fetched once.

>>> merges = read_merges(config := Path("merge.yml"))
>>> pins_text(merges, hub_uses(merges, find_folder))      # what `remerge pin` completes
>>> models = HubModels(config, read_pins_file(pins_path(config), "pins"), fetch, folder)
>>> models.find("owner/name", None)
PosixPath('.scratch/hub/name-0123456789abcdef')

A model that lies in a folder here is used where it lies; only what is none is asked of a hub.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from remerge.errors import RecipeError
from remerge.pins.recipe_text import document_text, read_document
from remerge.recipes.merges import Merge
from remerge.recipes.pins import Pin, digest, table_of
from remerge.recipes.planning import Find
from remerge.recipes.schema import is_hub, label_of
from remerge.schema import shown
from remerge.sources.pinned import Source, parse_source, unpinned

#: Id and revision of a model or adapter, as a mergekit file gives them.
HubReference = tuple[str, str | None]


def pins_path(config: Path) -> Path:
    """The file of pins of a mergekit file: `merge.pins.yaml` beside `merge.yml`."""
    return config.with_suffix(".pins.yaml")


def hub_uses(merges: Sequence[Merge], find: Find) -> dict[HubReference, str]:
    """What a mergekit file names that is an id of the hub and no folder here.

    Args:
        merges: Its documents.
        find: Finds the folders that are here.

    Returns:
        The kind, `model` or `adapter`, by id and revision.

    Raises:
        RecipeError: One repository used as both.
    """
    documents = {merge.name for merge in merges}
    uses: dict[HubReference, str] = {}
    for reference in (r for merge in merges for r in merge.references()):
        for text, revision, kind in reference.parts(documents):
            if not is_hub(text) or find(text, revision) is not None:
                continue
            if uses.setdefault((text, revision), kind) != kind:
                raise RecipeError(f"{merges[0].file}: {text} is used as model and as adapter")
    return uses


def pins_text(uses: Mapping[HubReference, str], known: str = "") -> str:
    """The file of pins with an entry for each use; entries in `known` stay as they are."""
    document = read_document(known, "pins") if known else CommentedMap({"sources": CommentedMap()})
    sources = document.setdefault("sources", CommentedMap())
    there = {(entry.get("repo"), entry.get("ref")) for entry in sources.values()}
    for (repo, revision), kind in uses.items():
        if (repo, revision) in there:
            continue
        ref = {"ref": revision} if revision is not None else {}
        sources[_free_name(repo, sources)] = CommentedMap({"kind": kind, "repo": repo, **ref})
    head = "# The models of the hub; `remerge pin` fills in commits, digests and sizes.\n"
    return ("" if known else head) + document_text(document)


def _free_name(repo: str, taken: Mapping[str, Any]) -> str:
    stem = label_of(repo)[:60]
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    return next(name for name in names if name not in taken)


@dataclass
class HubModels:
    """Pinned models, fetched when they are first asked for.

    Attributes:
        config: The mergekit file, for messages.
        pins: Its pins by name.
        fetch: Makes a folder of a source, `folder` in the arguments; called once a source.
        folder: Where fetched models lie.
    """

    config: Path
    pins: Mapping[str, Pin]
    fetch: Callable[[Source, Path], None]
    folder: Path
    _found: dict[str, Path] = field(default_factory=dict)

    def find(self, repo: str, revision: str | None) -> Path | None:
        """The folder of what `repo` is pinned to; None if the file of pins has no such entry.

        Raises:
            RecipeError: It has one that is not complete.
        """
        for name, pin in self.pins.items():
            if pin.repo == repo and revision in (pin.ref, pin.revision):
                return self._folder_of(name, pin)
        return None

    def _folder_of(self, name: str, pin: Pin) -> Path:
        if name not in self._found:
            if unpinned({name: table_of(pin)}):
                raise RecipeError(
                    f"{pins_path(self.config)}: {shown(name)} is not pinned yet; run `remerge pin` "
                    f"on {self.config.name} where the hub is reachable"
                )
            folder = self.folder / f"{name}-{str(digest(name, pin))[:16]}"
            self.fetch(parse_source(name, table_of(pin)), folder)
            self._found[name] = folder
        return self._found[name]
