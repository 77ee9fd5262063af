"""A child that has llama.cpp run the template of a file, as its own server does by default."""

from __future__ import annotations

from typing import Any

from remerge.watchdog import Channel, alive


def serve(channel: Channel, arguments: dict[str, Any]) -> None:
    import xllamacpp

    channel.request()
    settings = xllamacpp.CommonParams()
    settings.model.path = arguments["path"]
    settings.n_ctx, settings.n_parallel, settings.warmup = 64, 1, False
    settings.verbosity = -1
    alive("load")
    xllamacpp.Server(settings)
    channel.send(answer=True)
