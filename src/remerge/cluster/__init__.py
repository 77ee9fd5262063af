"""A merge's units of work on a Ray cluster instead of the threads of one process.

>>> build(plan, out, make_shards=shard_maker({"address": "10.0.0.1:6379", "cpus": 8}), …)

A unit is an output shard: a pure function of plan and inputs to one file. Nodes read the ranges
that a unit needs from the shared file system themselves and write the shard there; plans, digests
and statistics travel through Ray, weights never do. Where the units ran changes no byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remerge.shards.artefact import MakeShards


def shard_maker(settings: Mapping[str, Any]) -> MakeShards:
    """`build`'s `make_shards` for the settings of `Execution`; ToolError when Ray is missing."""
    from remerge.cluster.connection import load_ray
    from remerge.cluster.driver import ClusterShards
    from remerge.cluster.settings import Execution

    return ClusterShards(Execution.of(settings), load_ray())
