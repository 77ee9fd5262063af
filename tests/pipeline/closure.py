"""Which of this project's files a module runs, read from its import statements.

`python tests/pipeline/closure.py` writes the lists of code in `dvc.yaml` anew.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

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


def room_closure(kind: str) -> set[str]:
    """What items of `quantize_eval` of one kind run."""
    modules = [f"stages.{kind}"] + [
        f"remerge.{kind}.{path.stem}" for path in (SRC / "remerge" / kind).glob("*.py")
    ]
    return set().union(*(closure(module) for module in modules))


KINDS = ("quantize", "evaluate")


def is_own(file: str, kind: str) -> bool:
    """Whether a file belongs to one kind of item alone."""
    return file.startswith(f"src/remerge/{kind}/") or file == f"src/stages/{kind}.py"


def code_of(stage: str) -> set[str]:
    """The code that a stage of `dvc.yaml` has to name."""
    if stage != "quantize_eval":
        return closure(f"stages.{stage}")
    shared = closure("stages.quantize_eval").union(*(room_closure(kind) for kind in KINDS))
    return {file for file in shared if not any(is_own(file, kind) for kind in KINDS)}


def rewritten(text: str) -> str:
    """The text of `dvc.yaml` with every stage's list of code replaced by what it runs."""
    pieces = re.split(r"(?m)^  (\w+):\n", text)
    for i in range(1, len(pieces), 2):
        lines = pieces[i + 1].splitlines(keepends=True)
        code = [n for n, line in enumerate(lines) if re.fullmatch(r" +- src/[^$]+\n", line)]
        if code:
            indent = lines[code[0]].partition("-")[0]
            new = [f"{indent}- {file}\n" for file in sorted(code_of(pieces[i]))]
            kept = [line for n, line in enumerate(lines) if n not in code]
            kept[code[0] : code[0]] = new
            pieces[i + 1] = "".join(kept)
    return "".join(piece if n % 2 == 0 else f"  {piece}:\n" for n, piece in enumerate(pieces))


if __name__ == "__main__":
    path = SRC.parent / "dvc.yaml"
    path.write_text(rewritten(path.read_text()))
