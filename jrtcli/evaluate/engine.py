"""What answers the cells of one model: in this process, in a worker process, or as an actor of Ray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jrtcli.batch import Answerer, BatchSettings
from jrtcli.checkpoint import load
from jrtcli.evaluate.grid import PUBLISHED, Cell
from jrtcli.evaluate.items import Item
from jrtcli.manifest import run_hash

if TYPE_CHECKING:
    from jrtcli.checkpoint import Loaded

ANSWERER = "jrtcli.evaluate.engine:CellAnswerer"
"""What a worker calls with CellSettings."""


@dataclass(frozen=True)
class CellSettings(BatchSettings):
    """How the rows of `cells` are answered, which have one model. templates: of each cell, by a name or a
    path that holds in any folder."""

    cells: tuple[Cell, ...] = ()
    templates: tuple[str, ...] = ()


class Engine(Protocol):
    """A CellAnswerer, or several of them in other processes."""

    @property
    def run(self) -> dict[str, Any]:
        """As of CellAnswerer."""

    @property
    def tokens_read(self) -> int:
        """Tokens of all prompts so far."""

    def answer(self, rows: Iterable[Item]) -> Iterator[dict[str, Any]]:
        """An output row for each, in the order in which they are done."""


class Opening(Protocol):
    """Makes the engine of some settings; it ends with the block."""

    def __call__(self, settings: CellSettings) -> AbstractContextManager[Engine]: ...


def settings_of(cells: Sequence[Cell], settings: BatchSettings) -> CellSettings:
    """The settings of the cells of one model, from those that all models share."""
    given = {field.name: getattr(settings, field.name) for field in fields(BatchSettings)}
    templates = []
    for cell in cells:
        name = "cq" if cell.order in PUBLISHED else cell.order
        templates.append(str(Path(name).resolve()) if Path(name).is_file() else name)
    made = given | {"model": cells[0].model, "cells": tuple(cells), "templates": tuple(templates)}
    return CellSettings(**made)


class CellAnswerer:
    """Answers the rows of several cells with one model; a row says of which cell it is.

    Attributes: `run`: "cells", what the answers of each depend on, and "parameters" and "context_tokens" of
    the model; `run_hash`; `tokens_read`. Raises as jrtcli.batch.Answerer, for any of the cells.
    """

    def __init__(self, settings: CellSettings, *, loaded: Loaded | None = None) -> None:
        self.settings = settings
        self.loaded = loaded or load(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            backend=settings.backend,
            weights=settings.weights,
            revision=settings.revision,
            tokenizer=settings.tokenizer,
        )
        # What cannot be read as a cell wants it is said before any is.
        runs = [self._answerer(number).run for number in range(len(settings.cells))]
        self.run: dict[str, Any] = {
            "cells": runs,
            "parameters": self.loaded.identity.parameters,
            "context_tokens": self.loaded.context_tokens,
        }
        self.run_hash = run_hash(self.run)
        self._current: tuple[int, Answerer] | None = None
        self._tokens = 0
        self._stopped = False

    @property
    def tokens_read(self) -> int:
        """Tokens of all prompts so far; those that several rows share are counted once."""
        return self._tokens + (0 if self._current is None else self._current[1].tokens_read)

    def answer(self, rows: Iterable[Item]) -> Iterator[dict[str, Any]]:
        """An output row for each, in the order in which they are done."""
        for number, group in groupby(rows, key=lambda row: row.cell):
            if self._stopped:
                return
            if self._current is None or self._current[0] != number:
                self._tokens = self.tokens_read
                self._current = (number, self._answerer(number))
            yield from self._current[1].answer(group)

    def stop(self) -> None:
        """Begin no more rows; those whose reading has begun are still answered."""
        self._stopped = True
        if self._current is not None:
            self._current[1].stop()

    def _answerer(self, number: int) -> Answerer:
        cell = self.settings.cells[number]
        settings = replace(
            self.settings,
            template=self.settings.templates[number],
            reads=None if cell.order in PUBLISHED else cell.reads,
            most_reads=cell.most_reads,
            fill=cell.fill,
            # A document that was cut to a length is read whole.
            window=0 if cell.length_tokens is not None else self.settings.window,
        )
        answerer = Answerer(settings, loaded=self.loaded)
        # Its rows say of which cell they are.
        answerer.run = answerer.run | {
            "task": cell.task,
            "order": cell.order,
            "length_tokens": cell.length_tokens,
            "oracle": cell.oracle,
            "shots": cell.shots,
        }
        answerer.run_hash = run_hash(answerer.run)
        return answerer
