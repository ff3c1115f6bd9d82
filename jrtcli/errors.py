"""What can go wrong for a user, and the exit code each kind ends with."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SOME_ROWS_FAILED = 3
EXIT_INTERRUPTED = 130


class JrtError(Exception):
    """A user's mistake or a missing thing, said in one line: what, where, what to do."""

    exit_code = EXIT_FAILED


class UsageError(JrtError):
    """The request itself makes no sense (exit code 2)."""

    exit_code = EXIT_USAGE


class CheckpointError(JrtError):
    """A checkpoint cannot be found or does not fit its architecture."""


class DocumentError(JrtError):
    """A document cannot be read."""


class StateError(JrtError):
    """A document's state cannot be read, or is that of something else than it is asked for."""


class TemplateError(UsageError):
    """A prompt template is wrong or unknown."""


class NotResumable(JrtError):
    """A state cannot stop, or go on, inside JRT-RNN's encoder: reading there is not causal."""
