"""Count answered requests on a bar of `remerge.progress`, and pass them on to lm-eval's cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from remerge.progress import Bar, track


class _Advancing:
    """Stands where lm-eval expects its cache hook, to which a model reports each answer."""

    def __init__(self, hook: Any, model: ShowsProgress) -> None:
        self._hook = hook
        self._model = model

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        """Store one answer in the cache, if there is one, and advance the bar."""
        self._hook.add_partial(kind, request, answer)
        if self._model.bar is not None:
            self._model.bar.advance(1)


class ShowsProgress:
    """Mixed into an lm-eval model, before it in the order of bases."""

    label = ""
    bar: Bar | None = None
    cache_hook: Any

    def set_cache_hook(self, cache_hook: Any) -> None:
        """lm-eval's way to attach a cache."""
        self.cache_hook = _Advancing(cache_hook, self)

    @contextmanager
    def counting(self, total: int) -> Iterator[None]:
        """A bar over `total` requests while the block runs."""
        with track(total, self.label, unit="request") as bar:
            self.bar = bar
            try:
                yield
            finally:
                self.bar = None
