"""The files of a project of one's own, and bringing its `dvc.yaml` up to its recipe.

>>> for path, text in project_files(recipe, "my", "merge.yml").items(): ...
>>> synced = sync_stages(text, dvc_stages(recipe))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from remerge.code import digest_of_all
from remerge.errors import RecipeError
from remerge.pins.recipe_text import document_text, read_document
from remerge.recipes.graph import read_graph
from remerge.recipes.mergekit.importing import recipe_text
from remerge.recipes.project import dvc_stages
from remerge.recipes.schema import is_path, read_recipe

_CONFIG = """\
# What `params.yaml` is composed of. `dvc exp run -S recipe.merges.{node}…` changes a value for
# one run.
defaults:
  - recipe: {name}
  - _self_

# What follows from the recipe and from conf/pins: never written by hand.
pins: ${{derived:pins}}          # a digest of each source
fetch: ${{derived:fetch}}        # where sources lie
nodes: ${{derived:nodes}}        # what each node reads and makes
code: ${{derived:code}}          # the code of remerge that makes them
composed: ${{derived:composed}}  # what all this was composed of
"""
_IGNORED = """\
/models/
/adapters/
/baked/
/merged/
/scratch/
/outputs/
/multirun/
/.venv/
__pycache__/
"""
_DVC_IGNORED = "/scratch\n/.venv\n"
_HEAD = """\
# A stage a source and a node of conf/recipe/{name}.yaml. `remerge sync` adds the stages of new
# nodes and keeps what you change here: descriptions, further dependencies, stages of your own.
"""
_README = """\
# {name}

A merge of language models that anybody can rebuild to the last bit:

```console
$ pip install -r requirements.txt
$ dvc repro
```

The recipe is [conf/recipe/{name}.yaml](conf/recipe/{name}.yaml). Its sources are pinned in
[conf/pins/{name}.yaml](conf/pins/{name}.yaml) by `remerge pin`. `dvc.lock` holds the digests of
what came out. The result lies in `{out}`; `remerge id {out}` prints its model id.

After an edit of the recipe or its pins: `remerge sync`, then `dvc repro`. Another value for one
run: `dvc exp run -S 'recipe.merges.NODE.models.MODEL.weight=0.5'`. `dvc push` and `dvc pull` share
what was built.
"""


def project_files(recipe: Mapping[str, Any], name: str, origin: str) -> dict[str, str]:
    """Return the files of a project by path.

    Args:
        recipe: The recipe as a table.
        name: Its name.
        origin: The file that it was made from.

    Raises:
        RecipeError: A recipe that is not sound.
    """
    read = read_recipe(recipe)
    node = read.result
    graph = read_graph(read)
    out = f"{'baked' if node in graph.bakes else 'merged'}/{node}"
    return {
        ".gitignore": _IGNORED,
        ".dvcignore": _DVC_IGNORED,
        "README.md": _README.format(name=name, out=out),
        "conf/config.yaml": _CONFIG.format(name=name, node=node),
        f"conf/recipe/{name}.yaml": recipe_text(recipe, origin),
        f"conf/pins/{name}.yaml": pins_text(recipe),
        "dvc.yaml": sync_stages(_HEAD.format(name=name) + "stages: {}\n", dvc_stages(read)).text,
        "requirements.txt": requirements(),
    }


def requirements() -> str:
    """The package that the stages call, by version, with the digest of its code as a comment."""
    return (
        f"# code of remerge: sha256 {digest_of_all()}\n"
        f"remerge[hub,pipeline]=={version('remerge')}\n"
    )


def pins_text(recipe: Mapping[str, Any], known: str = "") -> str:
    """The file of pins with an entry for every source of the recipe; those in `known` stay."""
    read = read_recipe(recipe)
    graph = read_graph(read)
    document = read_document(known, "pins") if known else CommentedMap({"sources": CommentedMap()})
    sources = document["sources"]
    for name in sorted(graph.sources):
        if name in sources:
            continue
        reference = graph.references.get(name, name)
        origin: dict[str, Any]
        if is_path(reference):
            origin = {"path": reference}
        else:
            repo, _, revision = reference.partition("@")
            origin = {"repo": repo, **({"ref": revision} if revision else {})}
        sources[name] = CommentedMap({"kind": graph.sources[name], **origin})
    head = (
        ""
        if known
        else "# What each source is: `remerge pin` fills in commits, digests and sizes.\n"
    )
    return head + document_text(document)


@dataclass(frozen=True)
class Synced:
    """`dvc.yaml` after it was brought up to the recipe.

    Attributes:
        text: The new text.
        lines: What was done, and what could not be kept.
    """

    text: str
    lines: tuple[str, ...]


def sync_stages(text: str, wanted: Mapping[str, Any]) -> Synced:
    """Add stages of new nodes, drop those of nodes that are gone, and keep what the user changed.

    A stage that calls `remerge.stages` is ours. In one of ours `cmd` and `outs` follow the recipe;
    dependencies and parameters of ours do, others stay, and so does every other entry.

    Raises:
        RecipeError: A file that is no `dvc.yaml`, or a stage of the user's with a node's name.
    """
    document = read_document(text, "dvc.yaml")
    stages = document.get("stages")
    if stages is None:
        stages = document["stages"] = CommentedMap()
    if not isinstance(stages, CommentedMap):
        raise RecipeError("dvc.yaml: its stages are no table")
    if wanted and not stages:
        document["stages"] = stages = CommentedMap()
    lines = []
    for name in [n for n, stage in stages.items() if _is_ours(stage) and n not in wanted]:
        del stages[name]
        lines.append(f"dropped stage {name}: the recipe has no such node")
    for name, stage in wanted.items():
        old = stages.get(name)
        if old is None:
            stages[name] = _commented(stage)
            lines.append(f"added stage {name}")
        elif not _is_ours(old):
            raise RecipeError(
                f"dvc.yaml: stage {name} is not one of remerge, and a node has its name; rename one"
            )
        else:
            lines += _update(name, old, stage)
    return Synced(document_text(document), tuple(lines))


def _is_ours(stage: Any) -> bool:
    command = stage.get("cmd") if isinstance(stage, Mapping) else None
    return isinstance(command, str) and "remerge.stages." in command


def _update(name: str, old: CommentedMap, stage: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, value in stage.items():
        if key == "cmd":
            # Something before or behind the command, such as nice, is the user's.
            if value not in str(old.get(key)):
                lines.append(f"stage {name}: cmd is {value} again, was {old.get(key)}")
                old[key] = value
            continue
        there = list(old.get(key) or [])
        plain = [next(iter(e)) if isinstance(e, Mapping) else e for e in there]
        ours = [entry for entry in value if entry not in plain]
        gone = [
            entry
            for entry, named in zip(there, plain, strict=True)
            if _was_derived(key, named) and named not in value
        ]
        if ours or gone:
            old[key] = [entry for entry in there if entry not in gone] + ours
            lines.append(f"stage {name}: {key} follow the recipe")
    return lines


def _was_derived(key: str, entry: Any) -> bool:
    """Whether an entry of a list is of a kind that only the recipe decides."""
    if not isinstance(entry, str):
        return False
    folders = ("models/", "adapters/", "baked/", "merged/")
    sections = ("recipe.", "nodes.", "fetch.", "pins.", "code.")
    return entry.startswith(sections if key == "params" else folders)


def _commented(stage: Mapping[str, Any]) -> CommentedMap:
    return CommentedMap({key: value for key, value in stage.items() if value})


def write_project(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files of a project below `folder`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
