"""A model that answers from a child process, so that a hostile file ends there and not here.

>>> with closing(open_watched(path, context=2048, limits=limits)) as model:
...     model.say("add 18 65=", Settings(), lambda piece: print(piece, end=""))
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from remerge.runtimes.chat import Emit, Settings, Speaker, open_model
from remerge.runtimes.loadable import require_runnable
from remerge.watchdog import Channel, Limits, Message, Watched, alive


def open_watched(
    path: Path, *, context: int, threads: int | None = None, limits: Limits
) -> Speaker:
    """Load a model in a child process.

    Args:
        path: As `open_model` takes it.
        context: Tokens of prompt and answer, for GGUF and GGML.
        threads: All cores by default.
        limits: What the child may use.

    Returns:
        The model, as if it were here.

    Raises:
        CheckpointError: The path is wrong.
        ToolError: The runtime is missing or fails, or the child is beyond its limits.
    """
    require_runnable(path)
    arguments = {"path": str(path), "context": context, "threads": threads}
    child = Watched("remerge.runtimes.child:serve", arguments, limits, str(path))
    try:
        child.ask({"do": "load"}, _nothing)
    except BaseException:
        child.close()
        raise
    return _Remote(child)


def _nothing(_: Message) -> None:
    return


class _Remote:
    """A `Speaker` in a child."""

    def __init__(self, child: Watched) -> None:
        self._child = child

    def fits(self, prompt: str, tokens: int) -> bool:
        """See `Speaker`."""
        return self._child.ask({"do": "fits", "prompt": prompt, "tokens": tokens}, _nothing) is True

    def say(self, prompt: str, settings: Settings, emit: Emit) -> None:
        """See `Speaker`."""
        request = {"do": "say", "prompt": prompt, "settings": asdict(settings)}
        self._child.ask(request, lambda message: emit(str(message.get("piece", ""))))

    def close(self) -> None:
        """See `Speaker`."""
        self._child.close()


def serve(channel: Channel, arguments: dict[str, Any]) -> None:
    """Be the child: load the model, answer what is asked."""
    channel.request()
    path = Path(arguments["path"])
    with closing(
        open_model(path, context=arguments["context"], threads=arguments["threads"])
    ) as model:
        alive("step")
        channel.send(answer=True)
        while request := channel.request():
            if request["do"] == "fits":
                channel.send(answer=model.fits(request["prompt"], request["tokens"]))
            else:
                stop = tuple(request["settings"].pop("stop"))
                settings = Settings(stop=stop, **request["settings"])
                model.say(request["prompt"], settings, _emitter(channel))
                channel.send(answer=True)


def _emitter(channel: Channel) -> Callable[[str], None]:
    return lambda piece: channel.send(piece=piece)
