"""Talk to a built model: a folder of safetensors, a GGUF or a legacy GGML file, or its folder.

  remerge chat merged/final
  remerge chat quantized/gguf_q4_k_m --prompt "Name three rivers."
  remerge chat merged/final --raw --prompt "add 18 65="

What you type goes into the Alpaca template (### Instruction / ### Response); --raw sends it as it
is, which is right for the embedded family. In a conversation, /new forgets what was said and an
empty line or Ctrl-D ends it. The model runs in a child process with limits on memory and time, as
anybody may have made the file; no code that comes with a model is run.
"""

from __future__ import annotations

import argparse
import math
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from remerge.commands.untrusted import add_limit_options, limits_of

if TYPE_CHECKING:
    from remerge.runtimes.chat import Settings, Speaker


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("model", type=Path, metavar="FOLDER|FILE")
    parser.add_argument("--prompt", help="answer this once and end")
    parser.add_argument("--raw", action="store_true", help="continue the text, no template")
    parser.add_argument("--system", default="", help="text before the first instruction")
    parser.add_argument("--tokens", type=int, default=256, help="longest answer (default: 256)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 takes the likeliest token (default)"
    )
    parser.add_argument("--seed", type=int, default=0, help="fixes what is drawn (default: 0)")
    parser.add_argument("--context", type=int, default=2048, help="of GGUF, GGML (default: 2048)")
    parser.add_argument("--threads", type=int, help="threads to use (default: all cores)")
    add_limit_options(parser, 30)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.progress import announce
    from remerge.runtimes.chat import Settings
    from remerge.runtimes.child import open_watched
    from remerge.vocabulary.prompts import ALPACA_STOP

    _check(options)
    settings = Settings(
        tokens=options.tokens,
        temperature=options.temperature,
        seed=options.seed,
        stop=() if options.raw else (ALPACA_STOP,),
    )
    limits = limits_of(options, [options.model])
    with announce(f"loading {options.model}"):
        opened = open_watched(
            options.model, context=options.context, threads=options.threads, limits=limits
        )
    with closing(opened) as speaker:
        if options.prompt is not None:
            _Conversation(speaker, settings, options).answer(options.prompt)
        else:
            _converse(_Conversation(speaker, settings, options))


def _check(options: argparse.Namespace) -> None:
    from remerge.errors import RecipeError

    for name in ("tokens", "context", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise RecipeError(f"--{name} is {value}; expected at least 1")
    if not math.isfinite(options.temperature) or options.temperature < 0:
        raise RecipeError(f"--temperature is {options.temperature}; expected a number ≥ 0")


def _converse(conversation: _Conversation) -> None:
    interactive = sys.stdin.isatty()
    while True:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            line = ""
        if not line.strip():
            return
        if line.strip() == "/new":
            conversation.forget()
        else:
            conversation.answer(line)


class _Conversation:
    """What was said so far; the oldest is forgotten when the context is full."""

    def __init__(self, speaker: Speaker, settings: Settings, options: argparse.Namespace) -> None:
        self._speaker = speaker
        self._settings = settings
        self._raw = options.raw
        self._system = options.system
        self._turns: list[str] = []

    def forget(self) -> None:
        """Begin anew."""
        self._turns.clear()

    def answer(self, text: str) -> None:
        """Print the model's answer to `text` as it comes."""
        pieces: list[str] = []

        def emit(piece: str) -> None:
            pieces.append(piece)
            sys.stdout.write(harmless(piece))
            sys.stdout.flush()

        prompt = self._prompt(text)
        self._speaker.say(prompt, self._settings, emit)
        answer = "".join(pieces)
        if not answer.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()
        if not self._raw:
            self._turns.append(f"{_asked(text)}{answer.strip()}")

    def _prompt(self, text: str) -> str:
        from remerge.errors import RecipeError
        from remerge.vocabulary.prompts import alpaca

        while True:
            before = "\n\n".join(t for t in [self._system, *self._turns] if t)
            prompt = text if self._raw else alpaca(text, before)
            if self._speaker.fits(prompt, self._settings.tokens):
                return prompt
            if not self._turns:
                raise RecipeError(
                    "the prompt and the answer do not fit into the model's context; "
                    "shorten it, lower --tokens or raise --context"
                )
            del self._turns[0]


def _asked(text: str) -> str:
    from remerge.vocabulary.prompts import alpaca

    return alpaca(text)


def harmless(text: str) -> str:
    """`text` with control characters shown and not sent: a model's output may hold any."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )
