"""Compiling kernels, and keeping what was compiled.

>>> @kernel("void(float32[::1])")
... def halve(values_f32):
...     values_f32 *= 0.5

The compiler's own cache believes whatever lies in it: a file that was cut ends in a traceback, and
machine code with a flipped bit is run. Here a file begins with the SHA-256 of the rest and with
what it was compiled from and for; one that does not match is compiled again silently. A
kernel is also compiled again when another file of its folder changed: functions of those are
inlined in it, and the compiler's own cache looks at the kernel's file alone.

Files lie in `__pycache__` beside the source, or below NUMBA_CACHE_DIR. What lies there is code that
runs, so a folder that others can write to is passed over for a private one below ~/.cache. Where
that is not to be had either, every process compiles for itself.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

from remerge.code import PACKAGE, digest_of, folder_of
from remerge.files import create, temporary_path
from remerge.ownership import is_ours_alone
from remerge.progress import Compiling

_DIGEST_BYTES = 32
#: Tells that kernels are compiled.
COMPILING = Compiling()


def _load_without_blas() -> None:
    """Keep numba from loading scipy's BLAS with its first kernel: a third of a process's start.

    It only wants to know whether BLAS is there, and asks again when code that calls it is compiled.
    No kernel here does.
    """
    if "numba.np.arraymath" in sys.modules or find_spec("scipy") is None:
        return
    with suppress(ImportError, AttributeError):
        from numba.np import linalg

        ask, linalg.ensure_blas = linalg.ensure_blas, lambda: None
        try:
            import_module("numba.np.arraymath")
        finally:
            linalg.ensure_blas = ask


_load_without_blas()


def kernel(
    signature: str | None = None, **records: np.dtype[Any]
) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function as all kernels are: IEEE-754 as written, without the interpreter's lock.

    Args:
        signature: Argument types, for a kernel that is compiled when it is imported; None: on its
            first call, for the types that it is called with.
        records: Structured types by the name that the signature gives them.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        made = numba.njit(nogil=True, error_model="numpy")(function)
        # Without a place to write that is ours alone, there is no cache for the function at all.
        with suppress(RuntimeError):
            made._cache = _CheckedCache(made.py_func)
        if signature is not None:
            names = {name: numba.from_dtype(dtype) for name, dtype in records.items()}
            types = {**vars(numba.types), **names}
            arguments = eval(signature, {"__builtins__": {}}, types)  # noqa: S307 - a constant
            (_compile_later if _deferred else _compile)(made, arguments)
        return made

    return compiled


#: Whether kernels that are imported now are compiled on their first use.
_deferred = False
_first_use = threading.RLock()


@contextmanager
def compiled_on_first_use() -> Iterator[None]:
    """Import kernels within the block without compiling them: who only reads what methods state.

    On its first use a kernel is compiled for the types that it declares, as on import.
    """
    global _deferred
    before, _deferred = _deferred, True
    try:
        yield
    finally:
        _deferred = before


def _compile(made: Any, arguments: Any) -> None:
    made.compile(arguments)
    made.disable_compile()


def _compile_later(made: Any, arguments: Any) -> None:
    """Compile before the first call, by Python or from another kernel."""

    def ready() -> None:
        with _first_use:
            if not made.overloads:
                _compile(made, arguments)

    template = made.get_call_template

    def entry_point(*_given: Any, **_named: Any) -> Any:
        # What numba calls then; it refuses values of other types than were declared.
        ready()
        return next(iter(made.overloads.values())).entry_point

    def get_call_template(given: Any, named: Any) -> Any:
        ready()
        return template(given, named)

    made._compile_for_args = entry_point
    made.get_call_template = get_call_template


@cache
def _private(folder: Path) -> Path:
    """`folder`, if nobody else can write there, or one of our own; RuntimeError without either."""
    if is_ours_alone(folder):
        return folder
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
    private = caches / "remerge" / "kernels" / name
    try:
        private.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeError(str(error)) from None
    if not is_ours_alone(private):
        raise RuntimeError(f"{private} can be written by others")
    return private


class _CheckedCache(FunctionCache):
    """The compiler's cache of one function, in files that are checked."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        base = _private(Path(self._cache_path)) / self._impl.filename_base
        self._cache_file = _CheckedFiles(base, _sources(Path(function.__code__.co_filename)))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # A file that is whole and that this compiler still cannot take: one more reason to compile.
        with suppress(Exception):
            found = super().load_overload(sig, target_context)
            if found is not None:
                return found
        COMPILING.begin()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        COMPILING.end()
        # A full or read-only disk costs the next process a compilation and nothing else.
        with suppress(OSError):
            super().save_overload(sig, data)


class _CheckedFiles:
    """One file a signature and processor: digest of the rest, identity, pickled code."""

    def __init__(self, base: Path, sources: bytes) -> None:
        self._base = base
        self._made_from = (numba.__version__, llvmlite.__version__, sources)

    def flush(self) -> None:
        """Nothing is held back."""

    def load(self, key: Any) -> Any:
        """What was kept under `key`; None if there is nothing, or not the same, or not whole."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        digest, rest = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(rest).digest() != digest or rest[:_DIGEST_BYTES] != self._identity(key):
            return None
        return pickle.loads(rest[_DIGEST_BYTES:])  # noqa: S301 - what `save` wrote

    def save(self, key: Any, data: Any) -> None:
        """Keep `data` under `key`, in place of what an older source left there."""
        rest = self._identity(key) + dumps(data)
        path = self._path(key)
        temporary = temporary_path(path)
        try:
            with os.fdopen(create(temporary), "wb") as file:
                file.write(hashlib.sha256(rest).digest() + rest)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, key: Any) -> Path:
        types, processor, _code = key
        place = hashlib.sha256(repr((types, processor)).encode()).hexdigest()[:16]
        return self._base.with_name(f"{self._base.name}.{place}.nbc")

    def _identity(self, key: Any) -> bytes:
        return hashlib.sha256(repr((self._made_from, key)).encode()).digest()


#: Folders whose functions kernels of other folders inline.
_SHARED = ("arithmetic", "kernels")


@cache
def _sources(source: Path) -> bytes:
    """SHA-256 over shared arithmetic and the folder of `source`: what may be inlined in it."""
    if source.resolve().is_relative_to(PACKAGE):
        # `quantize/gguf` takes from `quantize/blocks`: the whole folder below the package
        return digest_of(*_SHARED, folder_of(source).partition("/")[0]).encode()
    return digest_of(*_SHARED).encode() + source.read_bytes()
