"""The line that says why the first answer ever takes seconds longer."""

from __future__ import annotations

from jrtcli.console import Console


def say_when_compiling(console: Console) -> None:
    """From now on `compiling kernels (once)` stands on stderr before the first kernel is compiled."""
    from jrt_kernels.jit.folder import on_compile

    said: list[bool] = []

    def say() -> None:
        if not said:
            said.append(True)
            console.note("compiling kernels (once)")

    on_compile.set(say)
