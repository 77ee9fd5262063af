"""sources.yaml files whose file names are no plain names."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.samples import Write, sample

PIN = {"sha256": "0" * 64, "size": 1}


def _names(name: str, what: str, *files: str, folder: str = "p", below: str = "") -> Write:
    def write(path: Path) -> None:
        pins = dict.fromkeys(files, PIN)
        entry = {"kind": "model", "path": folder, "subfolder": below, "files": pins}
        path.write_text(json.dumps({"sources": {"s": entry}}))

    write.__name__, write.__doc__ = name, f"Names {what}."
    return sample("name")(write)


for _name, _what, _file in (
    ("parent", "the folder above", ".."),
    ("itself", "its own folder", "."),
    ("outside", "a file outside of the folder", "../escape"),
    ("absolute", "a file by an absolute path", "/etc/passwd"),
    ("drive", "a file on a drive", "C:x"),
    ("backslash", "a file in another folder, for another system", "a\\b"),
    ("subfolder", "a file in a folder below, for a model", "a/b"),
    ("nul", "a file with a NUL, where C sees the end", "a\0b"),
    ("newline", "a file with a newline, to forge a line of a log", "a\nb"),
    ("control", "a file with a terminal escape", "\x1b[2J"),
    ("right_to_left", "a file that reads as another", "\u202egnp.exe"),
    ("half_a_surrogate", "a file with half of a surrogate pair, which no disk can hold", "\ud800"),
    ("long", "a file with 4,000 characters", "x" * 4000),
    ("nothing", "a file without a name", ""),
):
    _names(_name, _what, _file)
_names("case_twins", "two files that are one where case does not count", "Model.bin", "model.bin")
_names("unicode_twins", "two files that are one where Unicode is normalised", "\u00e9", "e\u0301")
_names("folder_outside", "a subfolder outside of the source", "a", below="../elsewhere")
_names("folder_back", "a subfolder that leads out by a detour", "a", below="a/../../b")
_names("folder_nul", "a folder with a NUL", "a", folder="a\0b")
