"""Which of this project's files a module runs, read from its import statements.

`python tests/pipeline/closure.py` writes the lists of code in `dvc.yaml` anew.
"""

from __future__ import annotations

import ast
import re
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
    """What the items of one kind or container run: the stage, the kind's module, the own room."""
    own = places()[name]["own"]
    room = own.removeprefix("src/").replace("/", ".")
    modules = [f"{room}.{path.stem}" for path in (SRC.parent / own).glob("*.py")]
    modules += ["stages.quantize_eval", f"stages.{kind_of(own)}"]
    return set().union(*(closure(module) for module in modules))


def is_named_by_items(file: str) -> bool:
    """Whether a file is one that an item names itself: in a room of its own, or its kind's."""
    rooms = {folder for folders in places().values() for folder in folders.values()}
    kinds = {kind_of(folders["own"]) for folders in places().values()}
    return any(file.startswith(f"{room}/") for room in rooms) or file in {
        f"src/stages/{kind}.py" for kind in kinds
    }


def code_of(stage: str) -> set[str]:
    """The code that a stage of `dvc.yaml` has to name."""
    if stage != "quantize_eval":
        return closure(f"stages.{stage}")
    shared = set().union(*(item_closure(name) for name in places()))
    return {file for file in shared if not is_named_by_items(file)}


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
