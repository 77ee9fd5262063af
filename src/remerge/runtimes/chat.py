"""Models that answer, one class a runtime; the text of an answer is handed on as it comes.

>>> with closing(open_model(Path("quantized/gguf_q4_k_m"), context=2048)) as model:
...     model.say("add 18 65=", Settings(), lambda piece: print(piece, end=""))

Which runtime serves is read off the file itself: safetensors through transformers, GGUF through
llama.cpp, legacy GGML through ctransformers. None is imported before it is needed, and none reaches
a network.
"""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from remerge.errors import RemergeError, ToolError
from remerge.runtimes.loadable import require_known, require_runnable, require_whole
from remerge.runtimes.offline import offline
from remerge.runtimes.programs import (
    in_a_line,
    legacy_tokens,
    open_ctransformers,
    open_llama_cpp,
)
from remerge.watchdog import alive

#: Parameters of a model that one thread runs fastest.
SMALL = 50_000_000


@dataclass(frozen=True)
class Settings:
    """How an answer is made: at most `tokens` tokens, ended by any text of `stop`.

    temperature  0 takes the most likely token; `seed` fixes what is drawn otherwise
    """

    tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()


Emit = Callable[[str], None]


class Speaker(Protocol):
    """A loaded model."""

    def fits(self, prompt: str, tokens: int) -> bool:
        """Whether `prompt` and an answer of `tokens` tokens fit into the model's context."""

    def say(self, prompt: str, settings: Settings, emit: Emit) -> None:
        """Continue `prompt` exactly as it is; every piece of the answer goes to `emit`."""

    def close(self) -> None:
        """Free the memory."""


def open_model(path: Path, *, context: int, threads: int | None = None) -> Speaker:
    """Load the model that a file, or a folder of this project's making, holds.

    CheckpointError says what is wrong with the path, ToolError which runtime is missing or fails.
    """
    threads = threads or os.cpu_count() or 1
    quant = require_runnable(path)
    if quant is None:
        return Transformers(path, threads)
    speaker = LlamaCpp if quant.runtime == "llama.cpp" else CTransformers
    return speaker(quant.path, context, threads)


class Transformers:
    """A folder of safetensors, computed in float32 on the processor."""

    @offline()
    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        import transformers

        require_known(folder)
        alive("load")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            # What unpacks a GPTQ folder draws bars, whatever it is told.
            with redirect_stderr(io.StringIO()):
                self._load(folder)
        except RemergeError:
            raise
        except Exception as error:  # whatever a library makes of a file that anybody wrote
            raise ToolError(
                f"{folder}: transformers does not load it ({in_a_line(error)})"
            ) from None
        # Threads only hinder one another where a matrix product is done before the second wakes up.
        small = self._model.num_parameters() < SMALL
        torch.set_num_threads(1 if small else threads)
        self._context = int(getattr(self._model.config, "max_position_embeddings", 2048))

    def _load(self, folder: Path) -> None:
        import torch
        import transformers

        self._tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        require_whole(loading, folder)
        self._model = model.eval()
        if getattr(self._model.config, "quantization_config", None) is not None:
            with torch.no_grad():  # it is unpacked at its first use
                self._model(torch.tensor([[0]]))

    def fits(self, prompt: str, tokens: int) -> bool:
        """See `Speaker`."""
        return len(self._ids(prompt)) + tokens <= self._context

    def _ids(self, prompt: str) -> list[int]:
        return list(self._tokenizer(prompt)["input_ids"])

    def say(self, prompt: str, settings: Settings, emit: Emit) -> None:
        """See `Speaker`."""
        for piece in until(self._pieces(prompt, settings), settings.stop):
            emit(piece)

    def _pieces(self, prompt: str, settings: Settings) -> Iterator[str]:
        """New text with every token; half a character waits for its other half."""
        ids: list[int] = []
        told = ""
        for token in self._tokens(self._ids(prompt), settings):
            ids.append(token)
            text = self._tokenizer.decode(ids, skip_special_tokens=True)
            if not text.endswith("�"):
                yield text[len(told) :]
                told = text
        if ids:
            yield self._tokenizer.decode(ids, skip_special_tokens=True)[len(told) :]

    def _tokens(self, prompt: list[int], settings: Settings) -> Iterator[int]:
        import torch

        ends = self._model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends, self._tokenizer.eos_token_id}
        draw = torch.Generator().manual_seed(settings.seed)
        given, cache = torch.tensor([prompt]), None
        with torch.no_grad():
            for _ in range(settings.tokens):
                output = self._model(given, past_key_values=cache, use_cache=True)
                cache, logits = output.past_key_values, output.logits[0, -1].double()
                if settings.temperature > 0:
                    chances = torch.softmax(logits / settings.temperature, -1)
                    token = int(torch.multinomial(chances, 1, generator=draw))
                else:
                    token = int(logits.argmax())
                if token in ends:
                    return
                yield token
                given = torch.tensor([[token]])

    def close(self) -> None:
        """See `Speaker`."""
        del self._model


class LlamaCpp:
    """A GGUF file in llama.cpp, through `xllamacpp`."""

    def __init__(self, path: Path, context: int, threads: int) -> None:
        alive("load")
        self._server = open_llama_cpp(path, context=context, threads=threads)

    def fits(self, prompt: str, tokens: int) -> bool:
        """See `Speaker`; the context is at most what the file was trained for."""
        return len(self._server.tokenize(prompt, special=True)) + tokens <= self._server.context

    def say(self, prompt: str, settings: Settings, emit: Emit) -> None:
        """See `Speaker`."""
        request = {
            "prompt": prompt,
            "n_predict": settings.tokens,
            "temperature": settings.temperature,
            "seed": settings.seed,
            "stop": list(settings.stop),
        }
        with closing(self._server.stream(request)) as pieces:
            for piece in pieces:
                emit(piece)

    def close(self) -> None:
        """See `Speaker`."""
        self._server.close()


class CTransformers:
    """A legacy GGML file in ctransformers' portable build."""

    def __init__(self, path: Path, context: int, threads: int) -> None:
        alive("load")
        self._model: Any = open_ctransformers(path, context=context, threads=threads)
        self._context = context

    def fits(self, prompt: str, tokens: int) -> bool:
        """See `Speaker`."""
        return len(legacy_tokens(self._model, prompt, special=True)) + tokens <= self._context

    def say(self, prompt: str, settings: Settings, emit: Emit) -> None:
        """See `Speaker`."""
        for piece in until(self._pieces(prompt, settings), settings.stop):
            emit(piece)

    def _pieces(self, prompt: str, settings: Settings) -> Iterator[str]:
        """New text with every token; half a character waits for its other half."""
        greedy = settings.temperature <= 0
        tokens = self._model.generate(
            legacy_tokens(self._model, prompt, special=True),
            temperature=1.0 if greedy else settings.temperature,
            top_k=1 if greedy else 0,
            top_p=1.0,
            repetition_penalty=1.0,
            seed=settings.seed,
        )
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in islice(tokens, settings.tokens):
            yield decoder.decode(self._model.detokenize([token], decode=False))
        yield decoder.decode(b"", final=True)

    def close(self) -> None:
        """See `Speaker`."""
        self._model = None


def until(pieces: Iterator[str], stops: tuple[str, ...]) -> Iterator[str]:
    """The pieces up to the first of `stops`; what may be the beginning of one waits."""
    held = ""
    for piece in pieces:
        held += piece
        found = [place for stop in stops if (place := held.find(stop)) >= 0]
        if found:
            held = held[: min(found)]
            break
        waiting = max(
            (n for stop in stops for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0
        )
        if len(held) > waiting:
            yield held[: len(held) - waiting]
            held = held[len(held) - waiting :]
    if held:
        yield held
