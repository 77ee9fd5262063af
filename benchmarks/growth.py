r"""How the cost of a TIES merge grows with the model and with the number of donors.

    python -m benchmarks.growth --work /var/tmp/bench --plot docs/growth.svg

Every row has its own floor (read all inputs, write one model, fsync), in turns with the merge. Four
models of 3 B parameters and two outputs take 38 GB of disk; `--sizes` leaves them out.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from benchmarks.inputs import SIZES, make_models
from benchmarks.measure import Cost
from benchmarks.merge import Job, measure_job, own_command, weights_of
from remerge.report.numbers import coordinate

#: Donors while the size varies, and the size while the donors vary.
USUAL_DONORS, USUAL_SIZE = 3, "0.25B"


@dataclass(frozen=True)
class Point:
    """One case: what it is of, how many bytes it moves, what it cost."""

    size: str
    donors: int
    moved: int
    floor: Cost
    merge: Cost


def measure(work: Path, size: str, donors: int, repeat: int) -> Point:
    """TIES of `donors` donors of this size beside its floor, medians of `repeat` turns."""
    folder = work / size
    folder.mkdir(parents=True, exist_ok=True)
    base, models = make_models(folder, SIZES[size], donors)
    inputs = (base, *models)
    commands = {"remerge": own_command("ties", folder / "out", inputs)}
    job = Job(f"{size}, {donors} donors", inputs, base, commands)
    costs = measure_job(job, folder, repeat, once=())
    read = sum(f.stat().st_size for model in inputs for f in weights_of(model))
    written = sum(f.stat().st_size for f in weights_of(base))
    return Point(size, donors, read + written, costs["floor"], costs["remerge"])


def table(points: Sequence[Point]) -> str:
    """Rows of Markdown."""
    lines = [
        "| parameters | donors | GB moved | floor s | remerge s | × floor | GB/s | anonymous MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {p.size} | {p.donors} | {p.moved / 1e9:.2f} | {p.floor.wall:.2f} | "
        f"{p.merge.wall:.2f} | {p.merge.wall / p.floor.wall:.2f} | "
        f"{p.moved / p.merge.wall / 1e9:.2f} | {p.merge.anonymous / 1e6:.0f} |"
        for p in points
    ]
    return "\n".join(lines)


def plot(points: Sequence[Point]) -> str:
    """Seconds over gigabytes moved, as an SVG of text: the merge's dots and its floor's rings."""
    width, height, left, bottom, top = 640, 360, 56, 40, 28
    far_x = max(p.moved for p in points) * 1.05
    far_y = max(max(p.merge.wall, p.floor.wall) for p in points) * 1.05

    def place(moved: float, seconds: float) -> tuple[str, str]:
        x = left + (width - left - 16) * moved / far_x
        y = height - bottom - (height - bottom - top) * seconds / far_y
        return coordinate(x), coordinate(y)

    marks = []
    for p in points:
        for cost, fill, stroke in ((p.floor, "none", "#888"), (p.merge, "#2a78d6", "#2a78d6")):
            x, y = place(p.moved, cost.wall)
            words = f"{p.size}, {p.donors} donors: {cost.wall:.2f} s"
            marks.append({"x": x, "y": y, "fill": fill, "stroke": stroke, "words": words})
    axes = []
    for step in range(5):
        x, y = place(far_x * step / 4, far_y * step / 4)
        gigabytes, seconds = f"{far_x * step / 4e9:.1f}", f"{far_y * step / 4:.1f}"
        axes.append({"x": x, "y": y, "gigabytes": gigabytes, "seconds": seconds})
    environment = Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string(Path(__file__).with_suffix(".svg.j2").read_text())
    return template.render(axes=axes, marks=marks, width=width, height=height, left=left)


def main() -> None:
    """Measure, print the table, write the plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for models and outputs")
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["0.25B", "0.94B", "3B"])
    parser.add_argument("--donors", nargs="*", type=int, default=[2, 3, 5, 8])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="SVG to write")
    parser.add_argument("--keep", action="store_true", help="keep the models that were made")
    options = parser.parse_args()
    work = options.work.resolve()
    cases = [(size, USUAL_DONORS) for size in options.sizes]
    cases += [(USUAL_SIZE, n) for n in options.donors if (USUAL_SIZE, n) not in cases]
    points = []
    for size, donors in cases:
        points.append(measure(work, size, donors, options.repeat))
        if size != USUAL_SIZE and not options.keep:
            shutil.rmtree(work / size)
    points.sort(key=lambda p: (p.donors != USUAL_DONORS, p.moved))
    print(table(points))
    if options.plot:
        options.plot.write_text(plot(points))


if __name__ == "__main__":
    main()
