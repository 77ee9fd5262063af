"""The pipeline itself on a cluster, through DVC: what it builds is what one machine builds."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.cluster.nodes import Cluster
from tests.faults.conftest import Built, built, clone_built  # noqa: F401
from tests.faults.test_kills import forget

pytestmark = pytest.mark.full

MADE = {
    "bake_loras@lookup": "baked/lookup",
    "bake_loras@brackets": "baked/brackets",
    "ties_p1": "merged/p1",
    "ties_p2": "merged/p2",
    "gradient": "merged/final",
    "quantize_eval@gguf_f16": "quantized/gguf_f16",
}


@pytest.fixture
def cluster(built: Built) -> Iterator[Cluster]:  # noqa: F811
    """Two nodes that run the clone's own code."""
    with Cluster(environment={"PYTHONPATH": str(built.folder / "src")}) as running:
        running.add()
        yield running


def test_the_recipe_on_two_nodes_of_which_one_dies_in_ties_p1_leaves_the_same_lock(
    built: Built,  # noqa: F811
    cluster: Cluster,
) -> None:
    for out in MADE.values():
        forget(built, out)
    settings = [f"address={cluster.address}", "cpus=1", "memory=0"]
    overrides = ["execution=ray", *(f"execution.{setting}" for setting in settings)]
    built.project.run(sys.executable, "-m", "remerge.stages.compose", *overrides)
    killed: list[list[str]] = []

    def kill_a_node() -> None:
        while not built.running("remerge.stages.ties_p1") and command.poll() is None:
            time.sleep(0.02)
        while command.poll() is None and not killed:
            if done := [path.name for path in built.folder.glob("scratch/*/*.done.json")]:
                cluster.nodes[1].kill()
                killed.append(done)
            time.sleep(0.001)

    command = built.start("dvc", "repro")
    thread = threading.Thread(target=kill_a_node)
    thread.start()
    told, _ = command.communicate(timeout=500)
    thread.join()
    assert command.returncode == 0, told
    assert killed and len(killed[0]) < 16, "the node was to die in the midst of ties_p1"
    assert "units on 2 nodes" in told and "units on 1 nodes" in told
    assert "gguf_f16: 1 units on 1 nodes" in told
    for stage in MADE:
        assert f"Running stage '{stage}'" in told
    unchanged = ["git", "diff", "--exit-code", "--stat", "dvc.lock"]
    assert subprocess.run(unchanged, cwd=built.folder).returncode == 0
    assert built.read_lock() == built.lock
