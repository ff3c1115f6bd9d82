"""Which backends exist for each operator, and which one serves a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any


class Unsupported(RuntimeError):
    """A backend cannot do what was asked; the message says what and why."""


def _table(op: str, function: str, *backends: str) -> dict[str, str]:
    return {backend: f"jrt_kernels.{op}.{backend}:{function}" for backend in backends}


OPS: dict[str, dict[str, str]] = {
    op: _table(op, op, "naive", "torch", "numba", "triton")
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
for _op in ("short_conv", "gla", "ssd"):
    OPS[_op] |= _table(_op, _op, "fla")
for _op in ("ssd", "selective_scan"):
    OPS[_op] |= _table(_op, _op, "mamba_ssm")

PACKAGES = {"triton": ("triton", "gpu"), "fla": ("fla", "gpu"), "mamba_ssm": ("mamba_ssm", "mamba-ssm")}
"""Backend of a GPU -> (the module it needs, the extra that installs it)."""

ORDER = ("triton", "fla", "mamba_ssm", "torch")
"""What `auto` tries on a GPU, the first that can do what is asked. Ours come first: they alone do all of it
(states, packs, fp32 to 1e-5), and nothing has been measured that says another is faster."""

FROM_NOTHING = {("selective_scan", "mamba_ssm")}
"""(op, backend) that cannot go on from a state: of no use to a model, which reads in pieces."""


def named(op: str, backend: str) -> str:
    """The backend of one op in "NAME" or "NAME,OP=NAME,...": the one given for the op, else the first.

    >>> named("gla", "triton,gla=fla")
    'fla'
    """
    first, *others = backend.split(",")
    return dict(part.split("=", 1) for part in others).get(op, first)


def resolve(op: str, backend: str) -> Callable[..., Any]:
    """The function that serves `op` in `backend` ("NAME" or "NAME,OP=NAME,...").

    Raises KeyError for an op that does not exist, Unsupported for a backend it does not have or whose package
    is missing.
    """
    backends, backend = OPS[op], named(op, backend)
    if backend not in backends:
        raise Unsupported(f"{op} has no backend {backend!r}; it has {', '.join(backends)}")
    module, attribute = backends[backend].split(":")
    try:
        function: Callable[..., Any] = getattr(import_module(module), attribute)
    except ImportError as error:
        raise Unsupported(f"{op}: {problem(backend) or error}") from error
    return function


def choose(
    op: str,
    device: str,
    *,
    problem_of: Callable[[str], str | None] | None = None,
) -> str:
    """The backend that `auto` means for `op` on `device` ("cpu", "cuda:0", ...), for a model that goes on
    from states and reads packs.

    On a GPU the first of ORDER that is installed, on a CPU numba where it can be imported and has code of its
    own; else torch. problem_of: why a backend cannot be used, or None.
    """
    backends = OPS[op]
    problem_of = problem_of or problem
    if device == "cpu":
        compiled = backends.get("numba", backends["torch"]) != backends["torch"]
        return "numba" if compiled and problem_of("numba") is None else "torch"
    for backend in ORDER if device.startswith("cuda") else ():
        able = backend in backends and (op, backend) not in FROM_NOTHING
        if able and (backend not in PACKAGES or problem_of(backend) is None):
            return backend
    return "torch"


def plan(
    ops: Sequence[str],
    backend: str,
    device: str,
    *,
    problem_of: Callable[[str], str | None] | None = None,
) -> str:
    """What serves each of a model's ops, its main one first -> "NAME" or "NAME,OP=NAME,...".

    backend: "auto", or a name, which serves the ops that have it; `auto` serves the others. On a CPU the
    choice for the main op is that for all.
    """
    main = ops[0]
    if device == "cpu" and "," not in backend:
        auto = choose(main, device, problem_of=problem_of)
        return auto if backend == "auto" else backend
    chosen = {}
    for op in ops:
        wanted = named(op, backend)
        able = wanted in OPS[op] and (op, wanted) not in FROM_NOTHING
        chosen[op] = wanted if able else choose(op, device, problem_of=problem_of)
    others = [f"{op}={name}" for op, name in chosen.items() if name != chosen[main]]
    return ",".join([chosen[main], *others])


def problem(backend: str) -> str | None:
    """Why a backend cannot be used in this Python, or None. Imports its package; a GPU is not looked for."""
    if backend == "numba":
        return numba_problem()
    if backend not in PACKAGES:
        return None
    return _import_problem(backend)


@cache
def _import_problem(backend: str) -> str | None:
    module, extra = PACKAGES[backend]
    if find_spec(module) is None:
        return f"{module} is not installed: pip install 'jrt[{extra}]'"
    try:
        import_module(module)
    except ImportError as error:
        return f"{module} cannot be imported ({error}): pip install 'jrt[{extra}]' builds it for this torch"
    return None


@cache
def numba_problem() -> str | None:
    """Why numba cannot be imported here (it refuses a numpy that is too new for it), or None."""
    try:
        import_module("numba")
    except ImportError as error:
        return str(error)
    return None
