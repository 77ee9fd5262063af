"""collect: what the report needs of up to 24 formats and scores, and of those collected before.

DVC takes no list as dependencies, so a stage has a fixed number of them. The items of this stage
form a chain: any number of formats is collected, and `report` depends on the last item alone.
"""

from __future__ import annotations

from pathlib import Path

from remerge.recipes.tables import UNUSED
from remerge.report.collected import collect_folders
from remerge.stages.params import item, read_params
from remerge.stages.running import item_name, run
from remerge.tensors.json_files import read_json, write_json


def collect(name: str) -> Path:
    """Make the item `name` of `collect`; return its file."""
    entry = item(read_params().tables.collect, name, "collect")
    before = {} if entry.after == UNUSED else read_json(Path(entry.after))
    folders = [Path(folder) for folder in entry.folders.values() if folder != UNUSED]
    out = Path(entry.out)
    out.parent.mkdir(exist_ok=True)
    write_json(out, {**before, **collect_folders(folders)})
    return out


if __name__ == "__main__":
    run(collect, item_name())
