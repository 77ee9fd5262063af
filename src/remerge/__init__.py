"""remerge: rebuild merged language models to the last bit.

>>> import remerge
>>> base = remerge.open_checkpoint("models/base")
>>> donor = remerge.open_donor("models/chronos", base, density=0.33)
>>> plan = remerge.plan_ties(base, [donor], remerge.TiesSettings(), dtype="F16", shard_bytes=10**9)
>>> files = remerge.companions_of(base.folder)  # config and tokenizer
>>> remerge.build(plan, "merged", companions=files, scratch=".scratch", threads=8)

Names are loaded on first use, so that importing the package costs nothing.
"""

import sys  # alone and first: `from __future__ import …` would already look for a module

# `python -m remerge.cli` would look for every module in the present folder first, which may be one
# that is looked at because nobody trusts it. Python sets this name while it looks for the module of
# `-m`, and only then; `-P` leaves the folder out from the beginning.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    del sys.path[0]

import importlib
from typing import Any

_ROOM_OF = {
    "Checkpoint": "remerge.tensors.checkpoint",
    "open_checkpoint": "remerge.tensors.checkpoint",
    "Donor": "remerge.methods.ties",
    "TiesSettings": "remerge.methods.ties",
    "plan_ties": "remerge.methods.ties",
    "open_donor": "remerge.merge.donors",
    "mapping_folder": "remerge.merge.donors",
    "Gradient": "remerge.methods.gradient",
    "plan_gradient": "remerge.methods.gradient",
    "read_adapter": "remerge.adapters.peft_files",
    "plan_bake": "remerge.baking.bake",
    "build": "remerge.shards.artefact",
    "companions_of": "remerge.shards.artefact",
    "model_id": "remerge.tensors.model_id",
    "RemergeError": "remerge.errors",
}

__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'remerge' has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOM_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
