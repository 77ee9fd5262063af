"""Data flows one way: a room of the library imports only what stands before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.closure import SRC, imported

#: From what knows nothing to what knows all; rooms in one line do not know each other.
FLOW = [
    {"code", "errors", "formatting", "yaml_text"},
    {"watchdog"},
    {"extras", "files", "progress", "schema"},
    {"lock_copy", "locks", "ownership"},
    {"kernels"},
    {"tensors"},
    {"architectures"},
    {"shards"},
    {"vocabulary"},
    {"adapters", "methods"},
    {"merge", "sources", "quantize"},
    {"pins", "runtimes"},
    {"recipes"},
    {"evaluate"},
    {"proof", "cluster"},
    {"report"},
    {"commands", "stages"},
    {"cli"},
]
PLACE = {room: place for place, rooms in enumerate(FLOW) for room in rooms}
LIBRARY = SRC / "remerge"


def room_of(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


@pytest.mark.parametrize("room", sorted(PLACE))
def test_a_room_imports_only_rooms_before_it(room: str) -> None:
    files = [p for p in LIBRARY.rglob("*.py") if room_of(p) == room]
    assert files
    against = {
        f"{path.relative_to(LIBRARY)} imports {module}"
        for path in files
        for module in imported(path)
        if module.startswith("remerge.")
        for other in [module.split(".")[1]]
        if other in PLACE and other != room and PLACE[other] >= PLACE[room]
    }
    assert against == set()


def test_every_room_has_its_place() -> None:
    rooms = {room_of(path) for path in LIBRARY.rglob("*.py")} - {"__init__"}
    assert rooms == PLACE.keys()
