"""Write what names formats from their rows: `python docs/formats.py [--check]`, or `make formats`.

The rows are in `src/remerge/quantize/*/formats.py`. From them come the options in `conf/quantize`
and `conf/eval/quants`, and the table in `docs/formats.md`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from remerge.quantize.bits import bits_per_weight
from remerge.quantize.core.format import Format
from remerge.quantize.formats import FORMATS

ROOT = Path(__file__).resolve().parents[1]
_OPTION = re.compile(r"g[a-z]+_\w+\.yaml")
_SETS = {
    "all": "Every format there is.",
    "exact": "The formats of the exact class: those that need no text to be calibrated on.",
    "default": "What the pipeline makes, the same bytes on every machine. Every format there is:\n"
    "# `-S quantize=all`; some: `-S 'quantize=[gguf_f16,gguf_q4_k_m]'`; none: `-S quantize=none`.",
}


def _belongs(form: Format, chosen: str) -> bool:
    return {"all": True, "exact": form.class_ == "exact", "default": form.default}[chosen]


def _set(name: str, comment: str) -> str:
    rows = "".join(f"    {form.name}:\n" for form in FORMATS.values() if _belongs(form, name))
    head = f"# @package _global_\n# {comment}\ndefaults: [settings]\n"
    return f"{head}recipe:\n  formats:\n{rows}"


def options() -> dict[str, str]:
    """The files of `conf/` by their paths: an option a format, and the sets of them."""
    files = {f"conf/quantize/{name}.yaml": _set(name, comment) for name, comment in _SETS.items()}
    for name in FORMATS:
        files[f"conf/quantize/{name}.yaml"] = (
            f"# @package _global_\ndefaults:\n  - settings\nrecipe: {{formats: {{{name}: }}}}\n"
        )
        files[f"conf/eval/quants/{name}.yaml"] = (
            f"# @package _global_\nrecipe: {{formats: {{{name}: {{score: true}}}}}}\n"
        )
    return files


def table() -> str:
    """The table of formats in Markdown; bits are those of Llama 2 13B."""
    head = "| format | bits a weight | how | class | runs in |\n|---|--:|---|---|---|\n"
    return head + "".join(
        f"| {form.name} | {bits_per_weight(form):.2f} | {form.description} | {form.class_} "
        f"| {form.runtime} |\n"
        for form in FORMATS.values()
    )


def document(text: str) -> str:
    """`docs/formats.md` with its table."""
    block = re.compile(r"(<!-- table -->\n).*?(<!-- /table -->)", re.DOTALL)
    return block.sub(lambda match: f"{match[1]}{table()}{match[2]}", text)


def written(root: Path) -> dict[str, str]:
    """Everything that follows from the rows, by its path."""
    files = options()
    files["docs/formats.md"] = document((root / "docs" / "formats.md").read_text())
    return files


def strays(root: Path, files: Iterable[str]) -> list[Path]:
    """Options of formats that there are not any more."""
    folders = (root / "conf" / "quantize", root / "conf" / "eval" / "quants")
    found = [path for folder in folders for path in folder.iterdir()]
    known = {root / file for file in files}
    return [path for path in found if _OPTION.fullmatch(path.name) and path not in known]


def main() -> None:
    """The command line."""
    files = written(ROOT)
    stale = [p for p, text in files.items() if not _is(ROOT / p, text)]
    extra = strays(ROOT, files)
    if "--check" in sys.argv[1:]:
        names = [*stale, *(str(path.relative_to(ROOT)) for path in extra)]
        sys.exit(f"error: {', '.join(names)} out of date; run `make formats`" if names else 0)
    for path in stale:
        (ROOT / path).write_text(files[path])
    for stray in extra:
        stray.unlink()


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    main()
