"""One merge by this library, as a process of its own.

python -m benchmarks.ours ties OUT BASE DONOR DONOR DONOR
python -m benchmarks.ours gradient OUT FIRST SECOND
python -m benchmarks.ours bake OUT MODEL ADAPTER
python -m benchmarks.ours METHOD OUT BASE MODEL … (see benchmarks/methods.py)
"""

from __future__ import annotations

import sys
from pathlib import Path

from remerge.merge.table_plan import TablePlan
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import open_checkpoint
from remerge.threads import thread_count

SHARD_BYTES = 1_000_000_000


def method_plan(name: str, folders: list[str]) -> TablePlan:
    """A merge of whole models by a method of the table, with the parameters of the benchmark."""
    from benchmarks.methods import METHODS, needs_base
    from remerge.merge.table import Slice, Use, make_table
    from remerge.merge.table_plan import plan_table

    models = {Path(folder).name: open_checkpoint(folder) for folder in folders}
    method, parameters = METHODS[name]
    table = make_table(
        method,
        [Slice(tuple(Use(label) for label in models))],
        {label: model.tensors for label, model in models.items()},
        dtype="F16",
        base=next(iter(models)) if needs_base(method) else None,
        parameters=parameters,
    )
    return plan_table(table, models, shard_bytes=SHARD_BYTES)


def main() -> None:
    """Run the merge that the arguments name."""
    method, out, first, *others = sys.argv[1:]
    model = open_checkpoint(first)
    common = {"dtype": "F16", "shard_bytes": SHARD_BYTES}
    if method == "ties":
        from remerge.methods.ties import Donor, TiesSettings, plan_ties

        donors = [Donor(open_checkpoint(path), density=0.33) for path in others]
        plan = plan_ties(model, donors, TiesSettings(), **common)
    elif method == "gradient":
        from remerge.methods.gradient import Gradient, plan_gradient

        plan = plan_gradient(model, open_checkpoint(others[0]), Gradient((0.2, 0.8)), **common)
    elif method != "bake":
        plan = method_plan(method, [first, *others])
    else:
        from remerge.adapters.peft_files import read_adapter
        from remerge.baking.bake import plan_bake

        plan = plan_bake(model, read_adapter(others[0]), **common)
    build(
        plan,
        Path(out),
        companions=companions_of(first),
        scratch=Path(out).with_name("scratch"),
        threads=thread_count(),
    )


if __name__ == "__main__":
    main()
