"""ties_p1: the TIES merge of the donors of part p1."""

from __future__ import annotations

from remerge.stages.running import run
from remerge.stages.ties import merge_part

if __name__ == "__main__":
    run(merge_part, "p1")
