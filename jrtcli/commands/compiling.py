"""The line that says why the first answer ever takes seconds longer."""

from __future__ import annotations

from jrtcli.console import Console


def say_when_compiling(console: Console) -> None:
    """From now on, where stderr is a terminal, a line stands there before the first kernel is compiled.

    It holds in the current context: the program runs each command in one of its own.
    """
    if not console.stderr_terminal:
        return
    from jrt_kernels.jit.folder import on_compile

    said: list[bool] = []

    def say() -> None:
        if not said:
            said.append(True)
            console.note("compiling kernels (once)")

    on_compile.set(say)
