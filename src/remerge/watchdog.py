"""Work on untrusted models in a child process, with limits on memory and on time without progress.

>>> with Watched("remerge.commands.score:work", arguments, limits, "model.gguf") as child:
...     result = child.ask({"models": [...]}, on_message)

Runtimes are C++ and Rust code that parses what anybody uploaded: they may crash, loop or fill
memory. A child that does ends alone, in one line of error here. It also ends when this process
does, however that is. What it says is data, bounded and read as JSON: a child is not trusted more
than the file that it reads.

In the child, `alive()` says that work goes on; elsewhere it does nothing. Memory is that of the
process itself, pages of files that it maps are not counted; it is watched on Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from remerge import errors
from remerge.errors import RemergeError, ToolError, line_of, printable
from remerge.formatting import duration, size

#: Seconds between two looks at the memory of a child, which can fill some 100 MB in that time.
_INTERVAL_S = 0.05
#: For an interpreter that starts on a busy machine; its code is ours.
_START_S = 300.0
#: For what a child has to put away after SIGTERM.
_GRACE_S = 3.0
_MESSAGE_LIMIT = 64_000_000
_LOG_LIMIT = 64_000
_SET_PARENT_DEATH_SIGNAL = 1
#: Says nothing of its own before this module is there.
_BEGIN = "import sys; sys.path.append(sys.argv[1]); from remerge.watchdog import main; main()"

Message = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """What a child may use.

    memory      bytes of its own
    load_s      seconds to load a model
    step_s      seconds between two signs of progress afterwards
    options     what a user sets to allow more memory, and more time
    """

    memory: int
    load_s: float
    step_s: float
    options: tuple[str, str] = ("--memory", "--timeout")


def limits_for(
    paths: list[Path],
    *,
    memory: int | None = None,
    step_s: float,
    batch: int = 1,
    options: tuple[str, str] = Limits.options,
) -> Limits:
    """Limits for models, by the bytes of their files.

    Args:
        paths: Files or folders of models, of which the largest counts.
        memory: Bytes; nine tenths of what is available by default.
        step_s: Seconds that a step may take however small the model is.
        batch: How many texts a step computes at once.
        options: What a user sets to allow more memory, and more time.

    Returns:
        The limits: a large model takes long, and ten megabytes a second are slow for any machine.
    """
    slow = max(map(_bytes, paths), default=0) / 10_000_000
    memory = memory or available_memory() * 9 // 10
    return Limits(memory, 60 + slow, step_s + batch * slow, options)


def _bytes(path: Path) -> int:
    with contextlib.suppress(OSError):
        files = path.iterdir() if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file())
    return 0


def available_memory() -> int:
    """Bytes that a process here can still take, by the kernel and by the limit of our container."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        stated = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(stated.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text())
        cached = next(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text().splitlines()
            if line.startswith("file ")
        )
        found.append(int((group / "memory.max").read_text()) - used + cached)
    return max(min(found), 256_000_000)


class Watched:
    """A child process that runs one function of this package, and its end."""

    def __init__(
        self,
        target: str,
        arguments: Mapping[str, Any],
        limits: Limits,
        about: str,
        *,
        grace_s: float = 0.0,
    ) -> None:
        """Start the child.

        Args:
            target: `module:function`; the function is called with a `Channel` and `arguments`.
            arguments: Values for JSON.
            limits: What it may use.
            about: What it works on, for messages: mostly a file.
            grace_s: Seconds that it has to put things away when it is ended early.
        """
        self._limits = limits
        self._about = about
        self._grace_s = grace_s
        self._reason = ""
        self._deadline: float | None = None
        self._within = _START_S
        self._channel, theirs = Pipe()
        # Beyond the standard streams, which the child exchanges: one of ours may be closed.
        descriptor = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 10)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        log = fcntl.fcntl(self._log, fcntl.F_DUPFD_CLOEXEC, 10)
        root = str(Path(__file__).resolve().parents[1])
        command = [
            sys.executable,
            "-P",
            "-c",
            _BEGIN,
            root,
            *map(str, (descriptor, log, os.getpid())),
        ]
        # A terminal sends Ctrl-C to all; the parent decides, and not only once the child is ready.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[descriptor, log]
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(descriptor)
            os.close(log)
        theirs.close()
        with contextlib.suppress(OSError):
            (Path("/proc") / str(self._process.pid) / "oom_score_adj").write_text("1000")
        self._ended = threading.Event()
        self._guard = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._guard.start()
        self._send({"target": target, "arguments": dict(arguments)})

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, request: Message, on_message: Callable[[Message], None]) -> Any:
        """Send a request and hand on what comes until it is answered.

        Args:
            request: For the child's function, which reads it from its channel.
            on_message: Called with every message before the answer.

        Returns:
            The answer.

        Raises:
            RemergeError: What the child says, or how it ended.
        """
        self._expect()
        self._send(request)
        try:
            while True:
                message = self._receive()
                if "within" in message:
                    self._expect(message["within"])
                    self._about = printable(message.get("about") or self._about, 500)
                elif "answer" in message:
                    return message["answer"]
                elif "error" in message:
                    self._raise(message)
                else:
                    self._expect()
                    on_message(message)
        finally:
            self._deadline = None

    def close(self) -> None:
        """End the child, which may put away what it has; it is gone afterwards."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._channel.close()
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._grace_s)
            self._process.kill()
        self._process.wait()
        self._guard.join()
        self._log.close()

    def _expect(self, within: object = "") -> None:
        """Set the deadline for the next sign of life; a child may name one of the two limits."""
        if within == "load":
            self._within = self._limits.load_s
        elif within == "step":
            self._within = self._limits.step_s
        self._deadline = time.monotonic() + self._within

    def _send(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # a child that has ended says so when it is read
            self._channel.send_bytes(json.dumps(message).encode())

    def _receive(self) -> Message:
        try:
            message = json.loads(self._channel.recv_bytes(_MESSAGE_LIMIT))
        except (EOFError, OSError, ValueError, RecursionError):
            self._fail()
        if not isinstance(message, dict):
            self._fail()
        return message

    def _fail(self) -> NoReturn:
        """Raise how the child ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        status = self._process.poll()
        self._process.kill()
        if self._reason:
            raise ToolError(f"{self._about}: {self._reason}")
        said = self._last_words()
        how = "stopped answering"
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):
                how = f"crashed ({signal.Signals(-status).name})"
        elif status is not None:
            how = f"ended with status {status}"
        raise ToolError(
            f"{self._about}: the runtime {how}{f', having said: {said}' if said else ''}; the file "
            "is damaged, hostile or of a kind that the runtime does not know"
        )

    def _last_words(self) -> str:
        """The last line that was written by code that knows no Python."""
        log = self._log.fileno()
        start = max(0, os.fstat(log).st_size - _LOG_LIMIT)
        text = os.pread(log, _LOG_LIMIT, start).decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip()]
        telling = [line for line in lines if any(w in line for w in _TELLING)]
        return printable(" ".join((telling or lines or [""])[-1].split()), 200)

    def _raise(self, message: Message) -> NoReturn:
        text = printable(str(message.get("error")), 2000)
        if isinstance(message.get("missing"), str):
            raise ModuleNotFoundError(text, name=message["missing"])
        kind = getattr(errors, str(message.get("kind")), ToolError)
        is_ours = isinstance(kind, type) and issubclass(kind, RemergeError)
        raise (kind if is_ours else ToolError)(text)

    def _watch(self) -> None:
        """End a child that is beyond its limits; the reason is there before the child is gone."""
        while not self._ended.wait(_INTERVAL_S):
            if self._process.poll() is not None:
                return
            deadline = self._deadline
            used = _own_memory(self._process.pid)
            more_memory, more_time = self._limits.options
            if used > self._limits.memory:
                self._reason = (
                    f"needs more memory than its limit of {size(self._limits.memory)}; the file is "
                    f"hostile, or allow more with {more_memory}"
                )
            elif deadline is not None and time.monotonic() > deadline:
                self._reason = (
                    f"no progress in {duration(self._within)}; the file is hostile, or allow more "
                    f"with {more_time}"
                )
            elif os.fstat(self._log.fileno()).st_size > _MESSAGE_LIMIT:
                self._reason = "the runtime writes messages without end; the file is hostile"
            if self._reason:
                self._process.kill()
                return


_TELLING = ("ASSERT", "terminate called", "what():", "error", "Error", "panicked")


def _own_memory(process: int) -> int:
    """Bytes of a process that are its own, wherever they lie; 0 where that cannot be seen."""
    total = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:", "VmSwap:")):
                total += int(line.split()[1]) * 1024
    return total


class Channel:
    """The child's end: requests come in, messages and answers go out."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def request(self) -> Message | None:
        """Wait for the next request; None when no more will come."""
        try:
            message = json.loads(self._connection.recv_bytes(_MESSAGE_LIMIT))
        except (EOFError, OSError):
            return None
        return message if isinstance(message, dict) else None

    def send(self, **message: Any) -> None:
        """Send a message; `answer=` answers the request."""
        with self._lock:
            self._connection.send_bytes(json.dumps(message).encode())


_channel: Channel | None = None
_said = 0.0


def alive(within: str = "", about: str = "") -> None:
    """Say that the work goes on; does nothing in a process that nobody watches.

    Args:
        within: `load` or `step`: the limit for the next sign of life and those that follow.
        about: What is worked on from now, for messages.
    """
    global _said
    now = time.monotonic()
    if _channel is None or (not within and now - _said < 1):
        return
    _said = now
    _channel.send(within=within, about=about)


def main() -> None:
    """Be the child: run one function, then end."""
    global _channel
    descriptor, log, parent = map(int, sys.argv[2:5])
    signal.signal(signal.SIGTERM, _leave)
    sys.unraisablehook = _leave_again
    _end_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What Python writes is shown as ever; what others write is kept for the line of an error.
    with contextlib.suppress(OSError):
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(log, 2)
    os.dup2(log, 1)
    connection = Connection(descriptor)
    _channel = Channel(connection)
    threading.Thread(target=_end_when_closed, args=[descriptor], daemon=True).start()
    first = _channel.request()
    if first is None:
        return
    module, _, function = str(first["target"]).partition(":")
    try:
        getattr(importlib.import_module(module), function)(_channel, first["arguments"])
    except SystemExit:
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        # The parent ends a child that failed; all has been put away by now.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _channel.send(**_message_of(error))
    finally:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()
        os._exit(0)  # threads of a runtime may never end by themselves


def _message_of(error: BaseException) -> Message:
    if isinstance(error, RemergeError):
        return {"error": str(error), "kind": type(error).__name__}
    if isinstance(error, ModuleNotFoundError):
        return {"error": str(error), "missing": error.name}
    said = line_of(error) if isinstance(error, Exception) else None
    said = said or f"{type(error).__name__}: {' '.join(str(error).split())}"
    return {"error": printable(said, 500), "kind": "ToolError"}


def _leave(*_: object) -> None:
    """End by an exception, so that what is open is put away."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def _leave_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Python drops an exception that is raised in a finalizer; that of `_leave` comes once more."""
    if unraisable.exc_type is SystemExit:
        signal.signal(signal.SIGTERM, _leave)
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        sys.__unraisablehook__(unraisable)


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _end_when_closed(descriptor: int) -> None:
    """End this process when the other end of its channel is gone, on any system."""
    watcher = select.poll()
    watcher.register(descriptor, select.POLLHUP)
    while not any(events & select.POLLHUP for _, events in watcher.poll(1000)):
        pass
    time.sleep(_GRACE_S)
    os._exit(1)
