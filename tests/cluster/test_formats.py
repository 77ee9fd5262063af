"""GGUF and GGML made on two nodes of which one dies: the bytes are those of one machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remerge.quantize.blocks import units
from remerge.stages import quantize as stage
from tests.cluster.nodes import Cluster
from tests.cluster.test_faults import files, wait_for
from tests.quantize.conftest import save_llama
from tests.quantize.items import item, with_settings

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that a node can be met in the midst of a unit."""
    shape = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6}
    return save_llama(tmp_path_factory.mktemp("model") / "llama", **shape)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        running.add()
        yield running


def make(name: str, model: Path, out: Path, execution: dict[str, Any]) -> dict[str, bytes]:
    """The files of an item of quantize_eval."""
    container = name.partition("_")[0]
    settings = {"texts": str(model), "measure": False}
    stage.make(name, item(container, model, out), with_settings(container, settings, execution))
    return files(out)


@pytest.mark.parametrize("name", ["gguf_q4_k_m", "ggml_q5_1"])
def test_a_node_killed_in_mid_unit_leaves_the_same_file(
    name: str,
    cluster: Cluster,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(units, "SHARD_BYTES", 4_000_000)
    direct = make(name, model, tmp_path / "direct", {"backend": "local"})
    assert not Path("scratch").exists()
    second = cluster.nodes[1]

    def power_cut() -> None:
        wait_for("a finished unit", lambda: list(tmp_path.glob("scratch/*/*.done.json")))
        wait_for("a unit on the second node", second.workers)
        second.kill()

    thread = threading.Thread(target=power_cut)
    thread.start()
    on_ray = {"backend": "ray", "address": cluster.address, "cpus": 1, "memory": 0}
    made = make(name, model, tmp_path / "units", on_ray)
    thread.join()
    assert made == direct
    told = capfd.readouterr().err
    assert "units on 2 nodes, 0 finished before" in told
    assert "its node died; given out again" in told or "its process died" in told
    assert [path.name for path in Path("scratch").iterdir()] == ["cluster-rates.json"]
