"""Which code decides which bytes: the one table.

>>> digest_of("evaluate", "runtimes/programs.py")

`dvc.yaml` lists for each stage what stands here; a test compares the two, and checks that a stage
imports nothing besides. Keys of resumable work, the cache of kernels and the cache of evaluations
hash the files that this table knows. Paths are relative to the package; a folder stands for all of
its modules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent

#: Decide no byte of any artefact: messages, progress, the writing of files whose content is given,
#: the life of a process, where units run, and recipes, whose values DVC tracks in params.yaml, with
#: the stages that only hand them on.
#: `__init__.py` files only name what a folder holds.
NEUTRAL = (
    "cli.py",
    "cluster",
    "code.py",
    "commands",
    "errors.py",
    "extras.py",
    "files.py",
    "formatting.py",
    "lock_copy.py",
    "locks.py",
    "ownership.py",
    "progress.py",
    "recipes",
    "runtimes/loadable.py",
    "runtimes/model_config.py",
    "schema.py",
    "stages/composed.py",
    "stages/composition.py",
    "stages/evaluate.py",
    "stages/guard.py",
    "stages/params.py",
    "stages/parent.py",
    "stages/quantize.py",
    "stages/quantize_eval.py",
    "stages/running.py",
    "stages/summary.py",
    "streams.py",
    "threads.py",
    "watchdog.py",
    "yaml_text.py",
)

#: What every merge runs: reading tensors, shared arithmetic, writing shards.
_MERGE = ("architectures", "kernels", "shards", "tensors")
_TIES = ("methods/ties.py", "methods/ties_kernel.py", "methods/trim.py", "merge", "vocabulary")

#: What decides the bytes of each stage's outputs. For `fetch`, which downloads, and for
#: `quantize_eval`, which measures for hours, no wider than what runs; `report` depends on all.
STAGES: dict[str, tuple[str, ...]] = {
    "fetch": (
        "adapters",
        "architectures",
        "shards",
        "sources",
        "tensors",
        "vocabulary/tokenizer.py",
        "stages/fetch.py",
    ),
    "bake_loras": ("adapters", "arithmetic", "baking", *_MERGE, "stages/bake_loras.py"),
    "ties_p1": (*_TIES, *_MERGE, "stages/ties.py", "stages/ties_p1.py"),
    "ties_p2": (*_TIES, *_MERGE, "stages/ties.py", "stages/ties_p2.py"),
    "gradient": (
        "methods/gradient.py",
        "methods/gradient_kernel.py",
        *_MERGE,
        "stages/gradient.py",
    ),
    # Shared by all items; each adds its row of ITEMS.
    "quantize_eval": ("kernels", "tensors", "vocabulary"),
    "collect": ("report/collected.py", "tensors", "stages/collect.py"),
}

#: What an item of `quantize_eval` runs besides, by kind or container.
ITEMS: dict[str, tuple[str, ...]] = {
    "evaluate": ("evaluate", "runtimes/offline.py", "runtimes/programs.py"),
    "gguf": ("quantize/gguf", "quantize/core", "quantize/blocks"),
    "ggml": ("quantize/ggml", "quantize/core", "quantize/blocks"),
    "gptq": ("quantize/gptq", "quantize/core"),
}

#: What every unit of work runs besides its own method: part of the key of resumable work.
UNITS = (
    "adapters",
    "architectures",
    "arithmetic",
    "baking",
    "kernels",
    "methods",
    "shards",
    "tensors",
)
#: What encodes a tensor besides its container.
ENCODING = ("kernels", "quantize/blocks", "quantize/core", "tensors")


def is_neutral(path: str) -> bool:
    """Whether a file of the package, by its path in it, decides no byte of any artefact."""
    return Path(path).name == "__init__.py" or covers(NEUTRAL, path)


def covers(paths: tuple[str, ...], file: str) -> bool:
    """Whether `file` is one of `paths` or lies in one of them."""
    return any(file == path or file.startswith(f"{path}/") for path in paths)


def files_of(*paths: str) -> list[Path]:
    """The modules that `paths` stand for and that decide bytes, in the order of their names."""
    return sorted(path for path in _modules(paths) if not is_neutral(_name(path)))


def _modules(paths: tuple[str, ...]) -> Iterator[Path]:
    seen = set()
    for path in paths:
        place = PACKAGE / path
        for file in [place] if place.suffix == ".py" else place.rglob("*.py"):
            if file not in seen:
                seen.add(file)
                yield file


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def digest_of(*paths: str) -> str:
    """SHA-256 over names and contents of the modules that `paths` stand for."""
    return _digest(files_of(*paths))


def digest_of_all() -> str:
    """SHA-256 over the whole package, messages too: two nodes of a cluster run the same."""
    return _digest(sorted(PACKAGE.rglob("*.py")))


def folder_of(module_file: str | Path) -> str:
    """The folder of the package in which a module lies; ValueError for one from elsewhere."""
    return _name(Path(module_file).resolve().parent)


def _digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        total.update(_name(path).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()
