"""Index files that name what they should not."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.samples import Write, headers, sample


def _names(name: str, what: str, file: object) -> Write:
    def write(path: Path) -> None:
        path.write_text(json.dumps({"weight_map": {"a": file}}))

    write.__name__, write.__doc__ = name, f"Names a file {what}."
    return sample("index")(write)


for _name, _what, _file in (
    ("outside", "outside of the folder", "../../etc/passwd"),
    ("absolute", "by an absolute path", "/etc/passwd"),
    ("backslash", "outside of the folder, for another system", "..\\secret"),
    ("drive", "on another drive", "C:model.safetensors"),
    ("parent", "that is the parent folder", ".."),
    ("nul", "with a NUL in it, where C sees the end", "model\0.safetensors"),
    ("newline", "with a newline, to forge a line of a log", "model\nerror: none"),
    ("control", "with a terminal escape", "\x1b[2Jmodel"),
    ("right_to_left", "whose name reads backwards", "model\u202esrotcart"),
    ("long", "of 4,000 characters", "m" * 4000),
    ("number", "that is a number", 5),
    ("nothing", "with an empty name", ""),
    ("missing", "that is not there", "model-00002-of-00002.safetensors"),
):
    _names(_name, _what, _file)


@sample("index")
def case_twins(path: Path) -> None:
    """Names two files that are one where case does not count."""
    path.write_text(json.dumps({"weight_map": {"a": "M.safetensors", "b": "m.safetensors"}}))


@sample("index")
def unicode_twins(path: Path) -> None:
    """Names two files that are one where Unicode is normalised."""
    path.write_text(json.dumps({"weight_map": {"a": "\u00e9", "b": "e\u0301"}}))


@sample("index")
def no_map(path: Path) -> None:
    """Has no table of files."""
    path.write_text('{"weight_map": ["model.safetensors"]}')


@sample("index")
def in_two_shards(path: Path) -> None:
    """Names one of two files beside it that both hold the tensor, with two values perhaps."""
    for name in ("a.safetensors", "b.safetensors"):
        headers.file(path.with_name(name), {"twice": headers.entry([1], 0, 2)}, b"\0\0")
    table = {"twice": "a.safetensors", "x": "b.safetensors"}
    path.write_text(json.dumps({"weight_map": table}))
