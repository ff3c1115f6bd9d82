"""The grid of an evaluation: which task, model, order, number of readings and length make a cell."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jrt_prompts
from jrtcli.errors import TemplateError, UsageError
from jrtcli.tasks.task import ONCE, TWICE, Task

PUBLISHED = (ONCE, TWICE)
"""Orders that a task has of its own; every other is a template."""


@dataclass(frozen=True)
class Cell:
    """One cell. model: as the user names it. order: "once", "twice" or a template. reads: of a template;
    None: its own. length_tokens: of the cut, None: none. oracle: whether the cut knows the answer. shots:
    examples in front. fill: of jrtcli.fill.WAYS."""

    task: str
    model: str
    order: str
    reads: int | None = None
    length_tokens: int | None = None
    oracle: bool = True
    shots: int = 0
    fill: str = "twice"

    @property
    def reading(self) -> str:
        """The order and what belongs to it, for a table."""
        parts = [self.order]
        if self.reads is not None:
            parts.append(f"x{self.reads}")
        if self.shots:
            parts.append(f"{self.shots} shots")
        if self.fill != "twice":
            parts.append(f"fill {self.fill}")
        return " ".join(parts)

    @property
    def model_name(self) -> str:
        """The model without its folders."""
        return Path(self.model).name or self.model

    @property
    def stem(self) -> str:
        """A file name, unlike that of any other cell."""
        said = f"{self.task}-{self.model_name}-{self.reading}-{self.length_tokens or 'whole'}"
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        return f"{re.sub(r'[^A-Za-z0-9.]+', '-', said).strip('-')}-{digest}"


def cells(
    tasks: Iterable[Task],
    models: Iterable[str],
    *,
    orders: Sequence[str] | None = None,
    reads: Sequence[int] = (),
    lengths: Sequence[int] = (),
    shots: Sequence[int] = (0,),
    fills: Sequence[str] = ("twice",),
    oracle: bool = True,
) -> list[Cell]:
    """Every cell, by model, so that each is loaded once. orders, lengths: none given, each task's own.

    Raises UsageError for an order that is none, or that cannot have so many readings.
    """
    tasks = list(tasks)
    made = []
    for model in models:
        for task in tasks:
            own: list[int | None] = [*lengths] or [task.length_tokens if oracle else None]
            for length in own:
                for order, count in _orders(task, orders, reads):
                    made += [
                        Cell(task.name, model, order, count, length, oracle, number, fill)
                        for number in shots
                        for fill in fills
                    ]
    return list(dict.fromkeys(made))


def _orders(task: Task, orders: Sequence[str] | None, reads: Sequence[int]) -> list[tuple[str, int | None]]:
    found: list[tuple[str, int | None]] = []
    for order in orders or task.orders:
        if order in PUBLISHED and task.once is not None:
            found.append((order, None))
            continue
        # A QA file has no prompts of its own: its once and twice are templates.
        name = {ONCE: "cq", TWICE: "cqcq"}.get(order, order)
        try:
            template = jrt_prompts.load_template(name)
        except jrt_prompts.TemplateError as error:
            raise TemplateError(f"no order {order!r}: once, twice, or a template; {error}") from None
        possible = [n for n in reads if _can(template, n)]
        if reads and not possible:
            raise UsageError(f"--reads {','.join(map(str, reads))}: {name} cannot be read so often")
        found += [(name, n) for n in possible] if reads else [(name, None)]
    return found


def _can(template: jrt_prompts.Template, reads: int) -> bool:
    try:
        template.check_reads(reads)
    except jrt_prompts.PromptError:
        return False
    return True
