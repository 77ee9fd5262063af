"""The fuzz targets under hypothesis: structured values where the fuzzer has coverage."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import SEEDS, TARGETS

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
KEYS = [
    "a", "dtype", "shape", "data_offsets", "__metadata__", "weight_map", "peft_type", "r",
    "lora_alpha", "rank_pattern", "alpha_pattern", "modules_to_save", "files", "sha256", "size",
    "kind", "repo", "path", "config", "out", "subfolder",
]  # fmt: skip
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None)
@given(value=OBJECTS | VALUES, first=st.integers(0, 255))
def test_any_value_is_read_or_refused_in_a_line(name: str, value: object, first: int) -> None:
    prefix = bytes([first]) if name in ("recipe", "pin", "pickle", "tokenizer") else b""
    TARGETS[name](prefix + json.dumps(value).encode())


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_sound_input_is_read_or_refused_in_a_line(
    name: str, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS[name])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    TARGETS[name](bytes(content[: data.draw(st.integers(1, len(content)))]))
