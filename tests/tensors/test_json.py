"""Untrusted JSON: what no other program could read again is refused where it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remerge.errors import CheckpointError
from remerge.tensors.checkpoint import read_config
from remerge.tensors.json_files import parse_json_object


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        '{"a": [1, Infinity]}',
        '{"a": {"b": -Infinity}}',
        '{"a": 1e999}',
        '{"a": -1e999}',
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"a": [{"b": "x\\uD83Dy"}]}',
        '{"a": ' + "[" * 900 + "]" * 900 + "}",
        '{"a": ' + '{"b":' * 200 + "1" + "}" * 200 + "}",
    ],
)
def test_numbers_and_texts_that_cannot_be_written_again_are_refused(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert str(caught.value).isprintable()


def test_what_is_sound_is_read_as_it_is() -> None:
    value = {"a": [1, 2.5, -1e308, None, True], "\U0001f600": "é", "b": {"c": [[]]}}
    for escaped in (True, False):
        data = json.dumps(value, ensure_ascii=escaped).encode()
        assert parse_json_object(data, "here") == value
