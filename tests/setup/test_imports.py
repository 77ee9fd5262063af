"""What the code imports is what pyproject.toml declares, not what happens to be installed."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OWN = {"remerge", "embedded", "benchmarks", "fuzz", "tests", "conftest"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = PROJECT["dependencies"]
EXTRAS = PROJECT["optional-dependencies"]
ALL = CORE + [line for extra in EXTRAS.values() for line in extra]
#: Folders of the package whose modules may import packages of these extras at their head.
MAY_IMPORT = {
    "remerge/evaluate": ["evaluate"],
    "remerge/sources": ["hub"],
    "remerge/pins": ["hub"],
    "remerge/recipes": ["hub"],
    "remerge/stages": ["pipeline"],
    "stages": ["pipeline"],
    "hydra_plugins": ["pipeline"],
}


def imports(folder: str, *, on_import: bool) -> Iterator[tuple[str, str]]:
    """Pairs of file and top-level package; `on_import`: only what importing the file runs."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        todo: list[ast.AST] = [ast.parse(path.read_text())]
        while todo:
            node = todo.pop()
            if on_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if on_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            todo += ast.iter_child_nodes(node)
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            for name in {name.partition(".")[0] for name in names}:
                if name not in sys.stdlib_module_names and name not in OWN:
                    yield str(path.relative_to(ROOT)), name


def undeclared(found: Iterator[tuple[str, str]], requirements: list[str]) -> list[str]:
    declared = {canonicalize_name(Requirement(line).name) for line in requirements}
    providers = packages_distributions()
    return [
        f"{path}: {name}"
        for path, name in found
        if declared.isdisjoint(map(canonicalize_name, providers.get(name, [name])))
    ]


def allowed(path: str) -> list[str]:
    """Requirements that importing a file of `src` may need."""
    extras = [e for f, es in MAY_IMPORT.items() if path.startswith(f"src/{f}/") for e in es]
    return CORE + [line for extra in extras for line in EXTRAS[extra]]


def test_importing_a_module_needs_only_its_extra() -> None:
    found = list(imports("src", on_import=True))
    assert [line for pair in found for line in undeclared(iter([pair]), allowed(pair[0]))] == []


@pytest.mark.parametrize("folder", ["src", "embedded", "tests", "benchmarks"])
def test_every_import_is_declared(folder: str) -> None:
    assert undeclared(imports(folder, on_import=False), ALL) == []
