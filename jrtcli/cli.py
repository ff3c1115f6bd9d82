"""The program `jrt`: its table of commands. A command's module is imported only when it is run."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from contextvars import copy_context
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from jrtcli import __version__
from jrtcli.console import run
from jrtcli.errors import UsageError

COMMANDS: dict[str, tuple[str, str]] = {
    "ask": ("jrtcli.commands.ask:ask", "Answer questions about documents, with a recall report."),
    "batch": ("jrtcli.commands.batch:batch", "Answer the rows of a file, many at once; go on after a kill."),
    "read": ("jrtcli.commands.read:read", "Read a document once, to ask it many questions."),
    "state": ("jrtcli.commands.state:state", "Look at the saved states of documents, and remove them."),
    "prompt": ("jrtcli.commands.prompt:prompt", "Show the rewritten prompt, its segments and token counts."),
    "models": ("jrtcli.commands.models:models", "List the checkpoints that --model takes by a short name."),
    "train": ("jrtcli.commands.train:train", "Train a small recurrent model from a recipe."),
    "probe": ("jrtcli.commands.probe:probe", "Show what order and a second reading change, at equal state."),
    "eval": ("jrtcli.commands.eval:eval_", "Measure recall on the paper's tasks, once and twice."),
    "eval perplexity": (
        "jrtcli.commands.eval_perplexity:perplexity",
        "Perplexity of texts: recalled bigrams, and the rest.",
    ),
    "bench": ("jrtcli.commands.bench:bench", "Time kernels and models here, beside their peers."),
    "batch merge": ("jrtcli.commands.batch_merge:merge", "Make one output of those of shards."),
    "doctor": ("jrtcli.commands.doctor:doctor", "Say what this machine has, and check a model's laws."),
}
"""name -> ("module:function", one line of help). A new command is one entry here. "one two" is a command
too: `jrt one two` runs it before `one` sees its arguments."""


_CONTEXT = {"help_option_names": ["-h", "--help"]}


class LazyGroup(TyperGroup):
    """Lists commands from the table; imports the module of the one that is run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        if " ".join(args[:2]) in COMMANDS:
            args = [" ".join(args[:2]), *args[2:]]
        name, stub, rest = super().resolve_command(ctx, args)
        if name is None or stub is None:
            return name, stub, rest
        return name, _load(name), rest


def _load(name: str) -> Any:
    target, summary = COMMANDS[name]
    module, attribute = target.split(":")
    function = getattr(import_module(module), attribute)
    if isinstance(function, typer.Typer):
        # A group with commands of its own.
        for info in function.registered_commands:
            info.help = info.help or _paragraphs(getattr(info.callback, "__doc__", None) or "")
        group = get_command(function)
        group.name, group.context_settings = name, _CONTEXT
        return group
    app = typer.Typer(add_completion=False)
    # The function's docstring is the long help; the table has the short one.
    app.command(name, help=_paragraphs(function.__doc__ or summary), context_settings=_CONTEXT)(function)
    return get_command(app)


def _paragraphs(text: str) -> str:
    """A docstring whose paragraphs are one line each, for the help to fold to the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _version(value: bool) -> None:
    if value:
        typer.echo(f"jrt {__version__}")
        raise typer.Exit()


def build() -> typer.Typer:
    """The Typer application with every command of the table, none of them imported."""
    app = typer.Typer(cls=LazyGroup, name="jrt", add_completion=True, context_settings=_CONTEXT)

    @app.callback()
    def jrt(
        version: bool = typer.Option(
            False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ) -> None:
        """Answer questions about documents with recurrent language models that read twice."""

    for name, (_, summary) in COMMANDS.items():
        app.command(name, help=summary)(_never)
    return app


def _never() -> None:
    raise AssertionError("LazyGroup replaces this before it runs")


def dispatch(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code. Raises JrtError for what the user got wrong."""
    try:
        result = get_command(build()).main(list(argv) or ["--help"], prog_name="jrt", standalone_mode=False)
    except SystemExit as error:
        # Typer ends the program at a closed pipe; `run` decides how it ends.
        if isinstance(error.__context__, BrokenPipeError):
            raise error.__context__ from None
        raise
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # Click's own usage errors, by what they can do: newer Typer carries a copy of Click of its own.
        say = getattr(error, "format_message", None)
        if say is None:
            raise
        command = getattr(getattr(error, "ctx", None), "command_path", "jrt")
        said = " ".join(say().split())
        raise UsageError(
            f"{said}{'' if said.endswith(('.', '?', ')')) else '.'} See `{command} --help`."
        ) from None
    return result if isinstance(result, int) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code (jrtcli.errors)."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        # What a command sets for those below it, such as who is told of compiling, ends with the command.
        return run(lambda: copy_context().run(dispatch, arguments))
    finally:
        if "triton" in sys.modules:
            # It complains at exit of what was set aside (`ask.made_to_stay`); to collect that takes 0.4 s.
            gc.unfreeze()
