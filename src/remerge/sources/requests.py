"""One HTTP request to a server that may be hostile: what it costs is bounded in bytes and time.

>>> with open_response("https://huggingface.co/…", {"Authorization": "…"}) as response:
...     body = read_body(response, limit=1_000_000)

A server may send endlessly, a byte a minute, a compressed bomb, or elsewhere. Bodies are read as
they come and never decoded. Each stretch of `PACE.window_s` seconds brings `PACE.least_bytes` or
the end, from the first byte of the greeting on. A redirect leaves the credentials behind when it
leaves the server, and never leads from https to http.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from remerge.errors import printable

_SILENCE_S = 30.0
_REDIRECTS = 5
_REDIRECT_BODY = 1 << 16


class AnswerError(Exception):
    """An answer that no hub gives. The text says what the server does, after its name."""


@dataclass(frozen=True)
class Pace:
    """The slowest server that is borne: fewer than `least_bytes` in `window_s` seconds end it."""

    window_s: float = 60.0
    least_bytes: int = 300_000


PACE = Pace()


class _Deadline(threading.local):
    """When the present request of this thread has to be further, on the monotonic clock."""

    at = math.inf


_deadline = _Deadline()


@contextmanager
def open_response(url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
    """Send a GET request and follow its redirects.

    Args:
        url: Where to.
        headers: Besides the usual ones. `Authorization` goes to no other host, port or scheme.

    Yields:
        The response, of any status, its body still to be read by `blocks` or `read_body`.

    Raises:
        AnswerError: A redirect from https to http.
        httpx.HTTPError: No answer, none in time, or more redirects than a hub needs.
    """
    client = _client()
    asked = {**headers, "Accept-Encoding": "identity"}
    request = client.build_request("GET", url, headers=asked)
    _deadline.at = time.monotonic() + PACE.window_s
    response = None
    try:
        for _ in range(_REDIRECTS + 1):
            response = client.send(request, stream=True)
            following = response.next_request
            if following is None:
                break
            if request.url.scheme == "https" and following.url.scheme != "https":
                raise AnswerError("redirects from https to an address without encryption")
            _finish(response)
            request = following
        else:
            raise httpx.TooManyRedirects(f"more than {_REDIRECTS} redirects", request=request)
        yield response
    finally:
        _deadline.at = math.inf
        if response is not None:
            response.close()


def blocks(response: httpx.Response) -> Iterator[bytes]:
    """The body as it comes, as fast as `PACE` asks.

    Raises:
        AnswerError: The body is compressed, which nobody asked for.
        httpx.HTTPError: The connection broke, or brought too little.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise AnswerError(
            f"answers in the encoding {printable(encoding, 40)!r}, which was not asked for"
        )
    received = 0
    for block in response.iter_raw():
        received += len(block)
        if received >= PACE.least_bytes:
            received, _deadline.at = 0, time.monotonic() + PACE.window_s
        yield block


def read_body(response: httpx.Response, limit: int) -> bytes:
    """The whole body; AnswerError for one of more than `limit` bytes, and as `blocks`."""
    body = bytearray()
    for block in blocks(response):
        body += block
        if len(body) > limit:
            raise AnswerError(f"answers with more than {limit} bytes where kilobytes are usual")
    return bytes(body)


def _finish(response: httpx.Response) -> None:
    """Read the few bytes of a redirect, so that its connection may serve again, and close it."""
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and len(length) < 6 and int(length) <= _REDIRECT_BODY:
        for _ in response.iter_raw():
            pass
    response.close()


@functools.cache
def _client() -> httpx.Client:
    """One for the process: it keeps connections, and takes proxies from the environment."""
    client = httpx.Client(timeout=_SILENCE_S, follow_redirects=False)
    # httpx offers no time limit for a whole request, nor a way to hand its transports a backend.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            pool: Any = transport._pool
            pool._network_backend = _Backend(pool._network_backend)
    return client


def _left(timeout: float | None) -> float | None:
    """Seconds that one operation on the network may take."""
    left = _deadline.at - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout(
            f"fewer than {PACE.least_bytes} bytes in {PACE.window_s:.0f} seconds"
        )
    left = min(left, math.inf if timeout is None else timeout)
    return None if left == math.inf else left


class _Backend(httpcore.NetworkBackend):
    """Connections whose every operation ends by the deadline."""

    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._inner.connect_tcp(host, port, _left(timeout), local_address, socket_options)
        return _Stream(stream)

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_unix_socket(path, _left(timeout), socket_options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    """One connection."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
