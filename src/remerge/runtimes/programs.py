"""The programs that people run quants in, opened so that they also end: llama.cpp, ctransformers.

>>> with closing(open_llama_cpp(path, context=0, threads=2)) as server:
...     server.tokenize("add 18 65=", special=True)

Nothing of lm-eval is imported here: `remerge chat` talks through the same objects.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from collections.abc import Generator
from ctypes import c_int
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from remerge.errors import CheckpointError, ToolError, printable

#: How the optional programs get into the environment. The project is on no package index, where its
#: name may be somebody else's: the command names the checkout.
INSTALL = "in a checkout of this project: make setup-dev, or .venv/bin/pip install -e '.[runtimes]'"


#: In place of a file's own where nobody asks for it.
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
_MAGIC = {b"GGUF": "llama.cpp", b"tjgg": "ctransformers"}


@dataclass(frozen=True)
class Quant:
    """A file that has a runtime of its own: `llama.cpp` or `ctransformers`."""

    path: Path
    runtime: str

    @property
    def package(self) -> str:
        """The Python package of the runtime."""
        return "xllamacpp" if self.runtime == "llama.cpp" else self.runtime


def quant_at(path: Path) -> Quant | None:
    """The GGUF or GGML file that `path` is or, alone, lies in; None for a folder of safetensors.

    What a file is is read off its first bytes. Raises CheckpointError for a path that is not there,
    a file of another kind, a folder that holds several.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder; build the model first")
    if path.is_file():
        quant = _quant(path)
        if quant is None:
            raise CheckpointError(
                f"{path}: is neither GGUF nor GGML; for safetensors give the folder"
            )
        return quant
    found = [quant for file in sorted(path.iterdir()) if (quant := _quant(file))]
    if len(found) > 1:
        names = " and ".join(quant.path.name for quant in found[:2])
        raise CheckpointError(f"{path}: {names}: which of them is meant? Give the file")
    return found[0] if found else None


def _quant(path: Path) -> Quant | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        runtime = _MAGIC.get(file.read(4))
    return Quant(path, runtime) if runtime else None


def missing(path: Path, package: str) -> ToolError:
    """The error for a runtime that is not installed."""
    return ToolError(f"{path}: {package} is not installed; {INSTALL}")


def in_a_line(problem: object) -> str:
    """What a runtime said, as one line; the server's own message where it sent an object."""
    if isinstance(problem, dict):
        problem = problem.get("message") or problem
    return printable(" ".join(str(problem).split()), 300)


class LlamaServer:
    """llama.cpp's server in this process, with one GGUF file. Use `open_llama_cpp`.

    context: tokens of prompt and answer that it holds, which is what the file was trained for where
        more was asked for.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        address = urlsplit(server.listening_address)
        self._loopback = (address.hostname or "127.0.0.1", address.port or 80)
        # The loop that serves starts in a thread of its own, and a server that is let go before
        # that waits for ever for its end. This question is answered by the loop, so after it the
        # server can be let go. (`/props` and `/health` are answered by others.)
        (slot,) = self.ask("GET", "/slots")
        self.context = int(slot["n_ctx"])

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The server's answer to one request; ToolError if it refuses."""
        connection = http.client.HTTPConnection(*self._loopback, timeout=600)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        if response.status != 200:
            raise ToolError(f"llama.cpp: {in_a_line(answer.get('error', answer))}")
        return answer

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Token ids of `text`, after the beginning-of-text token if `special`."""
        body = {"content": text, "add_special": special}
        return [int(token) for token in self.ask("POST", "/tokenize", body)["tokens"]]

    def complete(self, request: dict[str, Any]) -> Any:
        """The server's answer to a request for a completion, in one piece."""
        return self._server.handle_completions(request)

    def stream(self, request: dict[str, Any]) -> Generator[str, None, None]:
        """The text of a completion as it comes; ToolError if the server refuses or fails.

        Over the loopback, where the end of the connection ends the work too: what xllamacpp calls
        back from its own threads can neither be interrupted nor raise.
        """
        connection = http.client.HTTPConnection(*self._loopback, timeout=600)
        with contextlib.closing(connection):
            body = json.dumps({**request, "stream": True})
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", body, headers)
            for line in connection.getresponse():
                told = line.decode("utf-8", "replace").strip().removeprefix("data: ")
                if not told or told == "[DONE]":
                    continue
                answer = json.loads(told.removeprefix("error: "))
                if "choices" not in answer:
                    raise ToolError(f"llama.cpp: {in_a_line(answer.get('error', answer))}")
                yield from (str(choice["text"]) for choice in answer["choices"])

    def close(self) -> None:
        """Free the memory."""
        self._server = None


def open_llama_cpp(
    path: Path,
    *,
    context: int,
    threads: int,
    gpu: bool = False,
    full_cache: bool = False,
    own_template: bool = False,
) -> LlamaServer:
    """A GGUF file in llama.cpp.

    context: tokens; 0 for as many as the file was trained for, which is also the most.
    gpu: whether all layers go to one. full_cache: keys and values in float32.
    own_template: load the file's chat template, a program that llama.cpp runs at once.
    Raises CheckpointError if llama.cpp refuses it, ToolError if llama.cpp is not installed.
    """
    try:
        import xllamacpp
    except ImportError:
        raise missing(path, "llama.cpp (xllamacpp)") from None
    # On a crash it would start a debugger on this process, and not end before that one does.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx = context
    settings.n_parallel = 1
    settings.n_gpu_layers = 999 if gpu else 0
    settings.warmup = False
    settings.verbosity = -1
    if not own_template:
        settings.chat_template = _TEMPLATE
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    if full_cache:
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    try:
        server = xllamacpp.Server(settings)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: llama.cpp does not load it ({in_a_line(error)})") from None
    return LlamaServer(server)


def open_ctransformers(path: Path, *, context: int, threads: int) -> Any:
    """A legacy GGML file in ctransformers' portable build.

    Raises CheckpointError if it does not load, ToolError if ctransformers is not installed.
    """
    try:
        from ctransformers import LLM
        from ctransformers.llm import Config
    except ImportError:
        raise missing(path, "ctransformers") from None
    config = Config(context_length=context, threads=threads)
    try:
        return LLM(str(path), model_type="llama", config=config, lib="basic")
    except (RuntimeError, ValueError, OSError) as error:
        said = in_a_line(error)
        raise CheckpointError(f"{path}: ctransformers does not load it ({said})") from None


def legacy_tokens(model: Any, text: str, special: bool) -> list[int]:
    """Token ids of `text` in ctransformers, whose own method writes past its array.

    That has room for a token a character, while a character that the vocabulary lacks becomes a
    token a byte. SentencePiece puts a space before a text; programs of that time left it to the
    caller.
    """
    data = f" {text}".encode() if text else b""
    tokens = (c_int * (len(data) + 2))()
    count = model.ctransformers_llm_tokenize(data, special, tokens)
    return list(tokens[:count])
