"""fetch: one pinned source, verified, into `models/`, `adapters/` or `datasets/`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from remerge.errors import RecipeError
from remerge.recipes.described import described, pins_of
from remerge.recipes.pins import digest
from remerge.recipes.preflight import check_formats_of_source, check_order_of_source
from remerge.sources.delivery import Delivery
from remerge.sources.files import open_files
from remerge.sources.intake import take_in
from remerge.sources.pinned import parse_sources
from remerge.sources.preflight import Descriptions, check_source
from remerge.stages.params import item, read_params
from remerge.stages.running import SCRATCH, item_name, run
from remerge.threads import thread_count


def fetch(name: str) -> Path:
    """Fetch the source `name` of the recipe; return its folder."""
    params = read_params()
    out = Path(item(params.tables.fetch, name, "fetch"))
    pins = pins_of(params.whole)
    if params.tables.pins.get(name) != digest(name, pins.get(name)):
        raise RecipeError(
            f"source {name}: its pin in conf/pins is not the one that params.yaml was composed of; "
            "compose it again (`make params`, or `dvc exp run`)"
        )
    recipe = described(params.whole, pins)["recipe"]
    sources = parse_sources(recipe, params.whole["eval"].get("suite") or "")
    source = sources[name]
    delivery = Delivery(workers=params.execution.downloads, keep=params.execution.keep_downloads)
    open_source = partial(open_files, root=Path(), scratch=SCRATCH, delivery=delivery)
    descriptions = Descriptions(open_source)
    check_source(name, recipe, sources, descriptions)
    base = sources[Path(params.tables.places.base).name]
    check_order_of_source(params.recipe, params.gradient, descriptions, base)
    check_formats_of_source(params.tables, params.quantize, open_source, base)
    with open_source(source) as files:
        take_in(
            files,
            out,
            scratch=SCRATCH,
            shard_bytes=params.recipe.shard_bytes,
            threads=thread_count(),
        )
    return out


if __name__ == "__main__":
    run(fetch, item_name())
