"""Data flows one way: a layer of the library imports only what stands before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.closure import SRC, imported

#: From what knows nothing to what knows all; names in one line do not know each other.
FLOW = [
    {"code", "errors", "formatting", "streams", "yaml_text"},
    {"watchdog"},
    {"extras", "files", "progress", "schema"},
    {"lock_copy", "locks", "ownership", "threads"},
    {"kernels"},
    {"arithmetic"},
    {"tensors"},
    {"architectures"},
    {"shards"},
    {"vocabulary"},
    {"adapters", "methods"},
    {"baking", "merge", "sources", "quantize"},
    {"pins", "runtimes"},
    {"recipes"},
    {"evaluate"},
    {"proof", "cluster"},
    {"report"},
    {"commands", "stages"},
    {"cli"},
]
PLACE = {name: place for place, names in enumerate(FLOW) for name in names}
LIBRARY = SRC / "remerge"


def layer_of(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


@pytest.mark.parametrize("layer", sorted(PLACE))
def test_a_layer_imports_only_layers_before_it(layer: str) -> None:
    files = [p for p in LIBRARY.rglob("*.py") if layer_of(p) == layer]
    assert files
    against = {
        f"{path.relative_to(LIBRARY)} imports {module}"
        for path in files
        for module in imported(path)
        if module.startswith("remerge.")
        for other in [module.split(".")[1]]
        if other in PLACE and other != layer and PLACE[other] >= PLACE[layer]
    }
    assert against == set()


def test_every_layer_has_its_place() -> None:
    layers = {layer_of(path) for path in LIBRARY.rglob("*.py")} - {"__init__"}
    assert layers == PLACE.keys()
