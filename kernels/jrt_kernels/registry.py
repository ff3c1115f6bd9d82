"""Which backends exist for each operator, and which one serves a device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any


class Unsupported(RuntimeError):
    """A backend cannot do what was asked; the message says what and why."""


def _table(op: str, function: str, *backends: str) -> dict[str, str]:
    return {backend: f"jrt_kernels.{op}.{backend}:{function}" for backend in backends}


OPS: dict[str, dict[str, str]] = {
    op: _table(op, op, "naive", "torch", "numba")
    for op in (
        "selective_scan",
        "ssd",
        "gla",
        "taylor_linear_attention",
        "prefix_linear_attention",
        "short_conv",
        "gated_norm",
        "sliding_window",
    )
}
"""op -> backend -> "module:attribute", imported on use. A new backend is one entry here."""
# Softmax attention is matrix products: there is nothing to compile.
OPS["sliding_window"]["numba"] = OPS["sliding_window"]["torch"]


def resolve(op: str, backend: str) -> Callable[..., Any]:
    """The function that serves `op` in `backend`.

    Raises KeyError for an op that does not exist, Unsupported for a backend it does not have.
    """
    backends = OPS[op]
    if backend not in backends:
        raise Unsupported(f"{op} has no backend {backend!r}; it has {', '.join(backends)}")
    module, attribute = backends[backend].split(":")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    return function


def choose(op: str, device: str) -> str:
    """The backend that `auto` means for `op` on `device` ("cpu", "cuda:0", ...), to run it, not to train.

    On a CPU numba where it can be imported and has code of its own; else torch.
    """
    backends = OPS[op]
    compiled = backends.get("numba", backends["torch"]) != backends["torch"]
    return "numba" if device == "cpu" and compiled and numba_problem() is None else "torch"


@cache
def numba_problem() -> str | None:
    """Why numba cannot be imported here (it refuses a numpy that is too new for it), or None."""
    try:
        import_module("numba")
    except ImportError as error:
        return str(error)
    return None
