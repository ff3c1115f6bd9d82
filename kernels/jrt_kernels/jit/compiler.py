"""`jit`: compiles a kernel on its first call, and keeps the code in the user's cache directory.

numba would put it beside the source, which may not be writable, or where an environment variable says. The
folder's name holds a hash of all sources that kernels are made of and of numba's version: numba itself looks
at the file of the kernel alone, not at what it calls.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache

from jrt_kernels.jit.folder import cache_folder, on_compile

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
piece: Any = numba.njit(**OPTIONS)
"""Part of a kernel: compiled into those that call it."""


class _Locator:
    """Tells numba where a kernel's code lies; the kernel's folder and line keep equal names apart."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        self.path = str(cache_folder(numba.__version__))
        self.name = f"{Path(py_file).resolve().parent.name}-{py_func.__code__.co_firstlineno}"

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator | None:
        locator = cls(py_func, py_file)
        try:
            locator.ensure_cache_path()
        except OSError:
            return None
        return locator

    def ensure_cache_path(self) -> None:
        os.makedirs(self.path, exist_ok=True)
        tempfile.TemporaryFile(dir=self.path).close()

    def get_cache_path(self) -> str:
        return self.path

    def get_source_stamp(self) -> str:
        return Path(self.path).name

    def get_disambiguator(self) -> str:
        return self.name


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 - numba's own attribute


class _Cache(FunctionCache):
    _impl_class = _Implementation

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super().load_overload(sig, target_context)
        if found is None:
            _tell()
        return found


class _NoCache(NullCache):
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        _tell()


def _tell() -> None:
    told = on_compile.get()
    if told is not None:
        told()


class Kernel:
    """A compiled function whose cache is opened when it is first called: importing touches no file."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._dispatcher: Any = numba.njit(**OPTIONS)(function)

    @cached_property
    def compiled(self) -> Any:
        """The function that numba dispatches to."""
        try:
            self._dispatcher._cache = _Cache(self._dispatcher.py_func)
        except RuntimeError:  # no folder that can be written to: each process compiles for itself
            self._dispatcher._cache = _NoCache()
        return self._dispatcher

    def __call__(self, *args: Any) -> Any:
        return self.compiled(*args)


def jit(function: Callable[..., Any]) -> Kernel:
    """A kernel: compiled for the types of its first call, runs without the interpreter's lock."""
    return Kernel(function)
