"""Which of this project's files a module runs, read from its import statements."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from remerge.recipes.derive import CODE

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


@cache
def places() -> dict[str, dict[str, str]]:
    """The folders of code that items of `quantize_eval` name, by kind or container."""
    return {
        name: {
            place: f"src/remerge/{folder}"
            for place, folder in zip(("own", "core", "blocks"), folders, strict=True)
        }
        for name, folders in CODE.items()
    }


def kind_of(own: str) -> str:
    """`quantize` of `src/remerge/quantize/gguf`: the stage's module of that name runs the item."""
    return Path(own).relative_to("src/remerge").parts[0]


def item_closure(name: str) -> set[str]:
    """What the items of one kind or container run: the stage, the kind's module, its folder."""
    own = places()[name]["own"]
    folder = own.removeprefix("src/").replace("/", ".")
    modules = [f"{folder}.{path.stem}" for path in (SRC.parent / own).glob("*.py")]
    modules += ["remerge.stages.quantize_eval", f"remerge.stages.{kind_of(own)}"]
    return set().union(*(closure(module) for module in modules))
