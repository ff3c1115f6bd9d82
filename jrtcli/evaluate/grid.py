"""The grid of an evaluation: which task, model, order, number of readings and length make a cell."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jrt_prompts
from jrtcli.errors import TemplateError, UsageError
from jrtcli.rereading import MOST_READS
from jrtcli.tasks.task import ONCE, TWICE, Task

PUBLISHED = (ONCE, TWICE)
"""Orders that a task has of its own; every other is a template."""


@dataclass(frozen=True)
class Cell:
    """One cell. model: as the user names it. order: "once", "twice" or a template. reads: of a template;
    None: its own. most_reads: read again, up to so many times, where an answer is unsure. length_tokens: of
    the cut, None: none. oracle: whether the cut knows the answer. shots: examples in front. fill: of
    jrtcli.fill.WAYS."""

    task: str
    model: str
    order: str
    reads: int | None = None
    length_tokens: int | None = None
    oracle: bool = True
    shots: int = 0
    fill: str = "twice"
    most_reads: int | None = None

    @property
    def reading(self) -> str:
        """The order and what belongs to it, for a table."""
        parts = [self.order]
        if self.reads is not None:
            parts.append(f"x{self.reads}")
        if self.most_reads is not None:
            parts.append("auto" if self.most_reads == MOST_READS else f"auto:{self.most_reads}")
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
    most_reads: Sequence[int] = (),
    lengths: Sequence[int] = (),
    shots: Sequence[int] = (0,),
    fills: Sequence[str] = ("twice",),
    oracle: bool = True,
) -> list[Cell]:
    """Every cell, by model, so that each is loaded once. orders, lengths: none given, each task's own.
    most_reads: cells that read again where it pays, beside those of `reads`.

    Raises UsageError for an order that is none, or that cannot have so many readings.
    """
    if most_reads and any(shots):
        raise UsageError("--reads auto: a prompt with examples in front (--shots) cannot be read on")
    tasks = list(tasks)
    made = []
    for model in models:
        for task in tasks:
            own: list[int | None] = [*lengths] or [task.length_tokens if oracle else None]
            for length in own:
                for order, count, most in _orders(task, orders, reads, most_reads):
                    made += [
                        Cell(task.name, model, order, count, length, oracle, number, fill, most)
                        for number in shots
                        for fill in fills
                    ]
    return list(dict.fromkeys(made))


def _orders(
    task: Task, orders: Sequence[str] | None, reads: Sequence[int], most_reads: Sequence[int]
) -> list[tuple[str, int | None, int | None]]:
    found: list[tuple[str, int | None, int | None]] = []
    for order in orders or task.orders:
        if order in PUBLISHED and task.once is not None:
            found.append((order, None, None))
            continue
        # A QA file has no prompts of its own: its once and twice are templates.
        name = {ONCE: "cq", TWICE: "cqcq"}.get(order, order)
        try:
            template = jrt_prompts.load_template(name)
        except jrt_prompts.TemplateError as error:
            raise TemplateError(f"no order {order!r}: once, twice, or a template; {error}") from None
        if not reads and not most_reads:
            found.append((name, None, None))
            continue
        possible = [(name, n, None) for n in reads if _can(template, n)]
        again = [(name, None, n) for n in most_reads if template.repeats and n > template.least_reads]
        if not possible and not again:
            asked = ",".join([*map(str, reads), *(f"auto:{n}" for n in most_reads)])
            raise UsageError(f"--reads {asked}: {name} cannot be read so often")
        found += [*possible, *again]
    if most_reads and not any(most for _, _, most in found):
        raise UsageError(
            "--reads auto: no order here can be read on: name templates, such as --template cq,qcq"
        )
    return found


def _can(template: jrt_prompts.Template, reads: int) -> bool:
    try:
        template.check_reads(reads)
    except jrt_prompts.PromptError:
        return False
    return True
