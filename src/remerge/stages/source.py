"""A source of a project: pinned, verified, into `models/` or `adapters/`."""

from __future__ import annotations

from pathlib import Path

from remerge.errors import RecipeError
from remerge.recipes.pins import digest, read_pins, table_of
from remerge.recipes.schema import pins_names
from remerge.sources.delivery import Delivery
from remerge.sources.files import open_files
from remerge.sources.intake import take_in
from remerge.sources.pinned import parse_source
from remerge.stages.project import project
from remerge.stages.running import SCRATCH, item_name, run
from remerge.threads import thread_count


def fetch(name: str) -> Path:
    """Fetch the source `name` of the recipe; return its folder."""
    recipe, execution, tables = project()
    if name not in tables.fetch:
        raise RecipeError(
            f"the recipe reads no source {name}; run `remerge sync`, which drops its stage"
        )
    pin = read_pins(Path("conf/pins"), pins_names(recipe)).get(name)
    wanted = tables.pins.get(name)
    if pin is None or wanted is None or wanted != digest(name, pin):
        raise RecipeError(
            f"source {name} is not pinned in conf/pins as params.yaml says; run `remerge pin`, "
            "then `remerge sync`"
        )
    source = parse_source(name, table_of(pin))
    delivery = Delivery(workers=execution.downloads, keep=execution.keep_downloads)
    out = Path(tables.fetch[name])
    with open_files(source, root=Path(), scratch=SCRATCH, delivery=delivery) as files:
        take_in(files, out, scratch=SCRATCH, shard_bytes=recipe.shard_bytes, threads=thread_count())
    return out


if __name__ == "__main__":
    run(fetch, item_name())
