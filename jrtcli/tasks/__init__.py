"""The recall tasks of the paper, one file each, and any QA jsonl file as a task of its own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from jrtcli.errors import UsageError

if TYPE_CHECKING:
    from jrtcli.tasks.task import Task

TASKS: dict[str, str] = {
    "fda": "jrtcli.tasks.fda:TASK",
    "swde": "jrtcli.tasks.swde:TASK",
    "squad": "jrtcli.tasks.squad:TASK",
    "nq": "jrtcli.tasks.nq:TASK",
    "triviaqa": "jrtcli.tasks.triviaqa:TASK",
    "drop": "jrtcli.tasks.drop:TASK",
}
"""name -> "module:attribute" of a jrtcli.tasks.task.Task, imported on use. A new task is one line."""


def load_task(name: str) -> Task:
    """The task of a name. Raises UsageError for an unknown one."""
    if name not in TASKS:
        raise UsageError(f"no task {name!r}: choose {', '.join(TASKS)}, or give a QA jsonl file")
    module, attribute = TASKS[name].split(":")
    task: Task = getattr(import_module(module), attribute)
    return task
