"""Which of this project's files a module runs, read from its import statements."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from remerge.code import ITEMS

SRC = Path(__file__).resolve().parents[2] / "src"


def file_of(module: str) -> Path | None:
    """The file of a module of this project, None for any other."""
    path = SRC.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def imported(path: Path) -> frozenset[str]:
    """Names of modules that the file imports, at its head or within a function.

    What stands under `if TYPE_CHECKING` is read by a type checker and never run.
    """
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def closure(module: str) -> set[str]:
    """Paths, relative to the checkout, of all files of this project that `module` runs."""
    todo, files = [module], set()
    while todo:
        name = todo.pop()
        packages = [".".join(name.split(".")[: i + 1]) for i in range(name.count("."))]
        for candidate in [*packages, name]:
            path = file_of(candidate)
            if path is not None and path not in files:
                files.add(path)
                todo += imported(path)
    return {path.relative_to(SRC.parent).as_posix() for path in files}


def item_closure(name: str) -> set[str]:
    """What the items of one kind or container run: the stage, the kind's module, its folder."""
    own = ITEMS[name][0]
    folder = f"remerge.{own.replace('/', '.')}"
    modules = [f"{folder}.{path.stem}" for path in (SRC / "remerge" / own).glob("*.py")]
    modules.append(f"remerge.stages.{'evaluate' if name == 'evaluate' else 'quantize'}")
    return set().union(*(closure(module) for module in modules))
