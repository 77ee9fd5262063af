"""A server that sends one sample of `tests.faults.samples.hubs`, whatever it is asked.

>>> with Replay(path) as hub:
...     os.environ["HF_ENDPOINT"] = hub.url
"""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Self

_REPOSITORY = json.dumps({"id": "some/model", "sha": "a" * 40, "cardData": {}})
_DRIP_S = 0.1


class Replay:
    """On loopback. `lists` answers only the question for files with the sample."""

    def __init__(self, path: Path, lists: bool = False) -> None:
        manner, _, self._answer = path.read_bytes().partition(b"\n")
        self._manner, self._lists = manner.decode(), lists
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.requests = 0
        self.sent = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._socket.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._speak, args=(connection,), daemon=True).start()

    def _speak(self, connection: socket.socket) -> None:
        with connection:
            try:
                request = connection.recv(65536)
                self.requests += 1
                self._send(connection, request)
            except OSError:
                pass

    def _send(self, connection: socket.socket, request: bytes) -> None:
        if self._lists and b"/tree/" not in request.split(b"\r\n")[0]:
            head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(_REPOSITORY)}"
            connection.sendall(f"{head}\r\n\r\n{_REPOSITORY}".encode())
            return
        answer = self._answer.replace(b"{n}", str(self.requests).encode())
        if self._manner == "silent":
            self._ended.wait(60)
        elif self._manner.startswith("drip"):
            start = 0 if self._manner == "drip head" else answer.index(b"\r\n\r\n") + 4
            connection.sendall(answer[:start])
            for place in range(start, len(answer)):
                if self._ended.is_set():
                    return
                connection.sendall(answer[place : place + 1])
                time.sleep(_DRIP_S)
        else:
            connection.sendall(answer)
            self.sent += len(answer)
            while self._manner.startswith("endless") and not self._ended.is_set():
                connection.sendall(answer[-65536:])
                self.sent += 65536
