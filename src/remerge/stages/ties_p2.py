"""ties_p2: the TIES merge of the donors of part p2."""

from __future__ import annotations

from remerge.stages.running import run
from remerge.stages.ties import merge_part

if __name__ == "__main__":
    run(merge_part, "p2")
