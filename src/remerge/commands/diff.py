"""Say which tensors of two models differ, by how much, and in which layers.

  remerge diff merged/final downloads/stheno
  remerge diff --tensors a.gguf b.gguf
  remerge diff merged/p1 merged/final --html difference.html

Distances are in units in the last place (ulp) of the stored type: 1 is a rounding that went the
other way. Quantised tensors, of one type or two, are compared by the values they stand for.
Exit status 0: the models are the same to the bit; 1: they differ.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remerge.proof.diff import ModelDifference


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("first", help="folder or file of weights")
    parser.add_argument("second", help="folder or file of weights")
    parser.add_argument("--tensors", action="store_true", help="a line for each differing tensor")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", metavar="FILE", help="draw it: a page without scripts, offline")
    parser.add_argument("--threads", type=int, help="threads to use (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Do it; 1 if the models differ."""
    from remerge.proof.diff import compare

    difference = compare(options.first, options.second, options.threads)
    if options.html:
        from remerge.files import write_text
        from remerge.report.difference import difference_page

        write_text(options.html, difference_page(difference, options.first, options.second))
    if options.json:
        print(json.dumps(difference.as_json(), indent=2, sort_keys=True))
    else:
        print("\n".join(table(difference, options.tensors)))
    return int(not difference.same)


def table(difference: ModelDifference, tensors: bool = False) -> list[str]:
    """The difference as lines of text, by layer or by tensor."""
    from remerge.errors import printable

    if difference.same:
        return [f"the same to the bit: {len(difference.tensors)} tensors"]
    rows = [("", "differing", "max ulp", "mean ulp", "cosine")]
    if tensors:
        rows[0] = ("tensor", *rows[0][1:])
        rows += [
            (
                printable(t.name) + (f" ({t.change})" if t.change else ""),
                f"{t.differing} of {t.elements}",
                *_numbers(t.max_ulp, t.mean_ulp, t.cosine),
            )
            for t in difference.differing
        ]
    else:
        rows[0] = ("layer", *rows[0][1:])
        rows += [
            (
                printable(layer.layer),
                f"{layer.differing_tensors} of {layer.tensors}",
                *_numbers(layer.max_ulp, layer.mean_ulp, layer.cosine),
            )
            for layer in difference.layers()
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    for names, where in ((difference.only_a, "first"), (difference.only_b, "second")):
        lines += [f"only in the {where}: {printable(name)}" for name in names]
    differing = len(difference.differing)
    lines.append(f"{differing} of {len(difference.tensors)} tensors differ")
    return lines


def _numbers(
    max_ulp: int | None, mean_ulp: float | None, cosine: float | None
) -> tuple[str, str, str]:
    return (
        "–" if max_ulp is None else str(max_ulp),
        "–" if mean_ulp is None else f"{mean_ulp:.4g}",
        "–" if cosine is None else f"{cosine:.6f}",
    )
