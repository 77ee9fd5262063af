"""Code in a model folder, which the model id says nothing about.

>>> code_note(Path("downloads/model"))
'the id is of the weights alone; code of its own: config.json (auto_map), modeling_own.py'

Two folders with the same weights have the same id, and one of them may make a loader import Python
from it. Transformers does so where it is called with `trust_remote_code=True`; no command here is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.tensors.json_files import read_json

#: Entries of a config by which a loader imports code, from the folder or from a hub.
CODE_KEYS = (
    *("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code", "auto_mapping"),
    *("custom_object", "remote_code"),
)
#: Entries that choose an implementation by name; one with `/` is a repository of compiled kernels.
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation", "hub_kernels")
_CODE_FILES = frozenset(
    (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".js", ".ipynb", ".exe", ".wasm")
)
_SHOWN = 5


def code_note(folder: Path | str, names: Iterable[str] | None = None) -> str:
    """Name what of a model is code, or asks for code.

    Args:
        folder: A model's folder; of a single file there is nothing to say.
        names: Its files, relative to it; by default those that lie directly in it.

    Returns:
        One line, empty if there is no code.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return ""
    if names is None:
        names = [path.name for path in folder.iterdir() if path.is_file()]
    found = []
    for name in sorted(names):
        if PurePosixPath(name).suffix.lower() in _CODE_FILES:
            found.append(printable(name, 80))
        elif name.endswith("config.json"):
            keys = _keys(folder / name)
            found += [f"{printable(name, 80)} ({', '.join(keys)})"] if keys else []
    if not found:
        return ""
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"the id is of the weights alone; code of its own: {', '.join(found[:_SHOWN])}{more}"


def _keys(path: Path) -> list[str]:
    try:
        content = read_json(path)
    except CheckpointError:
        return ["cannot be read"]
    return list(dict.fromkeys(printable(key, 40) for key in code_keys(content)))


def code_keys(value: Any) -> Iterator[str]:
    """Every entry of a config, at any depth, by which a loader would import code."""
    if isinstance(value, list):
        for inner in value:
            yield from code_keys(inner)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        implementation = any(word in key for word in _IMPLEMENTATIONS)
        if (key in CODE_KEYS and inner) or (implementation and "/" in str(inner)):
            yield key
        else:
            yield from code_keys(inner)
