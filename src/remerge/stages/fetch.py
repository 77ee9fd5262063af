"""fetch: one pinned source, verified, into `models/`, `adapters/` or `datasets/`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from remerge.shards.threads import thread_count
from remerge.sources.delivery import Delivery
from remerge.sources.files import open_files
from remerge.sources.intake import take_in_adapter, take_in_dataset, take_in_model
from remerge.sources.pinned import parse_sources
from remerge.sources.preflight import Descriptions, check_source
from remerge.stages.params import item, read_params
from remerge.stages.running import SCRATCH, item_name, run


def fetch(name: str) -> None:
    """Fetch the source `name` of the recipe."""
    params = read_params()
    recipe = params["recipe"]
    entry = item(recipe["sources"], name, "recipe.sources")
    sources = parse_sources(recipe, (params.get("eval") or {}).get("suite") or "")
    source = sources[name]
    execution = params.get("execution") or {}
    delivery = Delivery(
        workers=execution.get("downloads", 2), keep=execution.get("keep_downloads") is True
    )
    open_source = partial(open_files, root=Path(), scratch=SCRATCH, delivery=delivery)
    check_source(name, recipe, sources, Descriptions(open_source))
    out = Path(entry["out"])
    with open_source(source) as files:
        if source.kind == "adapter":
            take_in_adapter(files, out, scratch=SCRATCH)
        elif source.kind == "dataset":
            take_in_dataset(files, out, scratch=SCRATCH)
        else:
            take_in_model(
                files,
                out,
                scratch=SCRATCH,
                shard_bytes=recipe["shard_bytes"],
                threads=thread_count(),
            )


if __name__ == "__main__":
    run(fetch, item_name())
