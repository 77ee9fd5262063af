"""The identity of a model: one SHA-256 over its weights, whatever files they lie in.

>>> model_id([("model.norm.weight", "F16", (5120,), "9f86d0…"), …])

Definition: for every tensor, in ascending order of its name's UTF-8 bytes, the line

    [name, dtype, shape, SHA-256 of its little-endian bytes in hexadecimal]

as JSON without spaces (`json.dumps(…, ensure_ascii=False, separators=(",", ":"))`), UTF-8, ended by
a newline. The id is the SHA-256 of all lines, in hexadecimal.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence


def model_id(tensors: Iterable[tuple[str, str, Sequence[int], str]]) -> str:
    """The id of the model whose tensors are the given (name, dtype, shape, SHA-256)."""
    total = hashlib.sha256()
    for name, dtype, shape, digest in sorted(tensors, key=lambda t: t[0].encode()):
        line = [name, dtype, list(shape), digest]
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        total.update(text.encode() + b"\n")
    return total.hexdigest()


def parse_model_id(text: str) -> str:
    """A model id as somebody typed it; ValueError for anything but 64 hexadecimal digits."""
    identity = text.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", identity):
        raise ValueError("a model id has 64 hexadecimal digits")
    return identity
