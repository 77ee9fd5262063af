"""quantize_eval: one item, a quantised format of the final model or the scores of some model.

What an item's kind needs is imported when it runs, so that each item depends on its own code alone.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from remerge.stages.params import item, read_params
from remerge.stages.running import item_name, run


def quantize_eval(name: str) -> Path:
    """Make the item `name` of `quantize_eval`; return its folder."""
    params = read_params()
    entry = item(params.tables.quantize_eval, name, "quantize_eval")
    importlib.import_module(f"remerge.stages.{entry.kind}").make(name, entry, params)
    return Path(entry.out)


if __name__ == "__main__":
    run(quantize_eval, item_name())
