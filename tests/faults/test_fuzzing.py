"""The fuzz targets under hypothesis: structured values where the fuzzer has coverage.

The examples are the same in every run; `make nightly` draws others. What it finds becomes a line
of `FOUND`.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
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
    "kind", "repo", "path", "config", "out", "subfolder", "tensors", "model_id", "header_sha256",
    "dsseEnvelope", "payload", "predicate", "resources", "name", "digest", "stages", "outs", "md5",
    "relpath", "model", "vocab", "merges", "added_tokens", "added_tokens_decoder", "content",
    "normalizer", "post_processor", "chat_template", "sources", "bakes", "merges", "defaults",
]  # fmt: skip
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)


@pytest.mark.parametrize("name", TARGETS)
@given(value=OBJECTS | VALUES, first=st.integers(0, 255))
def test_any_value_is_read_or_refused_in_a_line(name: str, value: object, first: int) -> None:
    give(name, value, first)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_any_damage_to_a_sound_input_is_read_or_refused_in_a_line(
    name: str, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS[name])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    TARGETS[name](bytes(content[: data.draw(st.integers(1, len(content)))]))


#: Values that ended in a traceback once, by target.
FOUND = [
    ("pin", {"kind": []}),
    ("pin", {"kind": {}}),
    ("pin", {"files": {"a": {"sha256": [], "size": {}}}}),
    ("pin", {"repo": ["a/b"], "revision": 7}),
    ("adapter", {"modules_to_save": 1}),
    ("adapter", {"lora_alpha": int("9" * 400)}),
    ("tokenizer", {"added_tokens": [{"id": []}]}),
    ("code", {"_attn_implementation\x01": "a/b"}),
    ("vocabulary", {"added_tokens_decoder": {"9" * 5000: {"content": "x"}}}),
    ("signature", {"predicate": {"resources": [{"name": [], "digest": {}}]}}),
]


@pytest.mark.parametrize(("name", "value"), FOUND)
def test_what_was_found_is_refused_in_a_line(name: str, value: object) -> None:
    for first in (0, 1):
        give(name, value, first)


#: One value of each type, and the awkward ones.
TYPES = (None, True, 0, -1, 1.5, 10**400, "", "x", "\ud800", [], [[]], {}, {"a": []}, {"": {}})


@pytest.mark.parametrize("name", TARGETS)
def test_every_type_under_every_key_is_read_or_refused(name: str) -> None:
    for value in TYPES:
        give(name, value, 1)
        for key in KEYS:
            for first in range(0, 44, 1 if name == "recipe" and key == "kind" else 43):
                give(name, {key: value}, first)


#: Targets whose first byte chooses what the rest is.
CHOOSING = (
    *("recipe", "pin", "pickle", "tokenizer"),
    *("manifest", "signature", "dvc_lock", "choice", "vocabulary", "mergekit", "model_json"),
)


def give(name: str, value: object, first: int) -> None:
    """Give a target one value as it expects it."""
    prefix = bytes([first]) if name in CHOOSING else b""
    TARGETS[name](prefix + json.dumps(value).encode())
