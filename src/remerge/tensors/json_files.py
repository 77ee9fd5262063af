"""JSON: read from files that may be hostile, written in the one form that manifests have.

>>> write_json(folder / "manifest.json", {"b": 1, "a": 2})
>>> read_json(folder / "manifest.json")
{'a': 2, 'b': 1}
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.files import regular_file_size, write_text

JSON_LIMIT = 64_000_000
_NESTING_LIMIT = 64
_HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that may be hostile: bounded in size, keys unique."""
    if regular_file_size(path) > JSON_LIMIT:
        raise CheckpointError(f"{path}: larger than {JSON_LIMIT} bytes; not a genuine JSON file")
    return parse_json_object(path.read_bytes(), str(path))


def parse_json_object(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object from untrusted bytes, or CheckpointError with `where` in its line."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object_without_twins,
            parse_constant=_finite,
            parse_float=_finite,
        )
        _check_nesting(value)
        if _HALF_A_PAIR.search(data):  # an escape may say what UTF-8 cannot
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise CheckpointError(f"{where}: nested too deep to be genuine") from None
    except UnicodeEncodeError:
        raise CheckpointError(f"{where}: holds half of a surrogate pair, no Unicode") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors
        raise CheckpointError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _object_without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON leaves open which of two equal keys wins, so two readers may see two models."""
    seen = dict(pairs)
    if len(seen) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {printable(twice)!r} is given twice")
    return seen


def _finite(text: str) -> float:
    """Python reads NaN and Infinity, and 1e999 as one; JSON has none and none can be written."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{printable(text, 40)} is not a finite number")
    return value


def _check_nesting(value: Any) -> None:
    """RecursionError for what another reader, deeper in its own calls, could not take apart."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_NESTING_LIMIT):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise RecursionError


def json_text(value: object) -> str:
    """The one JSON form of this project: sorted keys, two spaces, a newline at the end.

    NaN and Infinity are no JSON and raise ValueError.
    """
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path | str, value: object) -> None:
    """Write `value` to `path` atomically in the form of `json_text`."""
    write_text(path, json_text(value))
