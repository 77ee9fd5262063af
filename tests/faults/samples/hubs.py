"""Answers of a hub: how it sends (at once, endlessly, by drips), then the answer as on the wire.

`{n}` stands for the number of the request. `tests.sources.replay` serves them.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from tests.faults.samples import Write, sample

_SHA = "a" * 40
_SOUND = {"type": "file", "path": "config.json", "size": 2, "oid": "b" * 40}
_LARGE = {"oid": "c" * 64, "size": 9, "pointerSize": 134}


def _answer(name: str, what: str, manner: str, head: str, body: bytes, kind: str) -> Write:
    def write(path: Path) -> None:
        end = "" if manner == "endless head" else "\r\nConnection: close\r\n\r\n"
        text = f"{manner}\nHTTP/1.1 {head}{end}"
        path.write_bytes(text.encode() + body)

    write.__name__, write.__doc__ = name, what
    return sample(kind)(write)


def _any(name: str, what: str, head: str, body: bytes = b"", manner: str = "whole") -> None:
    """An answer to whatever is asked."""
    _answer(name, what, manner, head, body, "hub")


def _list(name: str, what: str, entries: Any, head: str = "") -> None:
    """An answer to the question for the files of a repository."""
    body = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    _answer(
        name, what, "whole", f"200 OK\r\nContent-Type: application/json{head}", body, "hub list"
    )


_any("endless_answer", "Sends without end.", "200 OK", b"[" + b" " * 65536, "endless")
_any("endless_error", "Sends an error without end.", "404 Not Found", b"x" * 65536, "endless")
_any("endless_head", "Sends headers without end.", "200 OK\r\nX: y\r\nX-More: ", b"z" * 65536,
     "endless head")  # fmt: skip
_any("dripping_body", "Sends a byte now and then.", "200 OK", b"[" + b" " * 600, "drip")
_any("dripping_chunk", "Sends the size of a chunk, a digit now and then.",
     "200 OK\r\nTransfer-Encoding: chunked", b"0" * 600, "drip")  # fmt: skip
_any("dripping_head", "Sends its headers a byte now and then.", "200 OK\r\nX: " + "y" * 600,
     b"", "drip head")  # fmt: skip
_any("silent", "Accepts the request and says nothing.", "200 OK", b"", "silent")
_any("bomb", "Sends twenty million bytes as twenty thousand.",
     "200 OK\r\nContent-Encoding: gzip", gzip.compress(bytes(20_000_000), 9))  # fmt: skip
_any("deep", "Sends fifty thousand lists, one in the other.", "200 OK", b"[" * 50_000)
_any("circle", "Redirects to itself.", "302 Found\r\nContent-Length: 0\r\nLocation: /again{n}")
_any("to_a_file", "Redirects to a file.", "302 Found\r\nLocation: file:///etc/passwd")
_any("to_nowhere", "Redirects to no address.", "302 Found\r\nLocation: http://[")
_any("wait_for_ever", "Asks to wait for 30,000 years.",
     "429 Too Many Requests\r\nRetry-After: 999999999999")  # fmt: skip
_any("wait_until", "Asks to wait until the year 9999.",
     "503 Busy\r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT")  # fmt: skip
_any("limit", "Says that its limit is free again in ten years.",
     '429 Too Many Requests\r\nRateLimit: "api";r=0;t=315360000')  # fmt: skip
_any("no_http", "Speaks another protocol.", "x", b"\0" * 100)
_list("pages", "Has pages without end.", [_SOUND | {"path": "x{n}"}],
      '\r\nLink: </api/models/some/model/tree/x?cursor={n}>; rel="next"')  # fmt: skip
_list("same_page", "Has a page that follows itself.", [_SOUND],
      '\r\nLink: </api/models/some/model/tree/x?cursor=1>; rel="next"')  # fmt: skip
_list("no_list", "Answers with a table in place of a list.", {"files": []})
_list("no_tables", "Lists numbers.", [1, 2])
_list("huge_number", "States a size of five thousand digits.",
      b'[{"type": "file", "path": "config.json", "size": ' + b"9" * 5000 + b"}]")  # fmt: skip
_list("negative", "States a negative size.", [_SOUND | {"size": -1}])
_list("fraction", "States a size that is no whole number.", [_SOUND | {"size": 1.5}])
_list("no_digest", "States YAML in place of a digest.",
      [_SOUND, _SOUND | {"path": "model.safetensors", "size": 9,
       "lfs": _LARGE | {"oid": "c" * 64 + "}\n    out: /etc"}}])  # fmt: skip
_list("twice", "Lists a file twice, with two sizes.", [_SOUND, _SOUND | {"size": 3}])
_list("name_with_lines", "Has a name that would write lines of YAML.",
      [_SOUND, _SOUND | {"path": "tokenizer: {}\n    repo: other/model\n    x.json"}])  # fmt: skip
_list("name_of_a_terminal", "Has a name with an escape of the terminal.",
      [_SOUND, _SOUND | {"path": "tokenizer\x1b[2Jx"}])  # fmt: skip
_list("name_too_long", "Has a name that no disk holds.",
      [_SOUND, _SOUND | {"path": "tokenizer" + "x" * 4000}])  # fmt: skip
