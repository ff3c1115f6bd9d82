"""What filling in a published table would take: which checkpoints and rows are here, and about how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from jrtcli.errors import UsageError
from jrtcli.evaluate.grid import Cell
from jrtcli.evaluate.paper import Printed
from jrtcli.known import find, folder_here
from jrtcli.reader import MAX_NEW_TOKENS
from jrtcli.tasks.cut import ANSWER_TOKENS
from jrtcli.tasks.task import TWICE, Row, Task

if TYPE_CHECKING:
    from jrtcli.checkpoint import Loaded

CHARACTERS_PER_TOKEN = 4.0
"""Of English text, about, with the tokenizers of the published checkpoints."""


@dataclass(frozen=True)
class Stand:
    """A row of a table. source: the checkpoint that makes it here; None: it would be downloaded, so many
    bytes. parameters: of the model."""

    model: str
    source: str | None
    hub_id: str
    size_bytes: int
    parameters: int


def stands(numbers: Sequence[Printed], models: Sequence[str]) -> list[Stand]:
    """The rows of a table. models: those that the user wants, by name, or ROW=FOLDER for a checkpoint that
    stands for a row; a folder named like a row stands for it. None: every row.

    Raises UsageError for a model that makes no row of this table.
    """
    rows = list(dict.fromkeys(number.model for number in numbers))
    wanted: dict[str, str] = {}
    for given in models:
        row, equals, source = given.partition("=")
        known = find(given)
        if equals and not Path(given).exists():
            name = row.lower()
        elif known is not None:
            name, source = known.name, given
        else:
            name, source = Path(given).resolve().name.lower(), given
        if name not in rows:
            raise UsageError(
                f"--model {given}: no row of this table; give one of {', '.join(rows)},"
                " or ROW=FOLDER for a checkpoint that stands for one"
            )
        wanted[name] = source
    made = []
    for row in rows:
        if wanted and row not in wanted:
            continue
        entry = find(row)
        hub_id, size, parameters = (
            (entry.hub_id, entry.size_bytes, entry.parameters) if entry is not None else (row, 0, 0)
        )
        source_here = wanted.get(row, "")
        if Path(source_here).is_dir() and source_here:
            made.append(Stand(row, source_here, hub_id, 0, parameters))
            continue
        here = entry is not None and folder_here(entry) is not None
        made.append(Stand(row, row if here else None, hub_id, 0 if here else size, parameters))
    return made


@dataclass(frozen=True)
class Work:
    """What a cell takes, about: tokens to read, and rows to answer."""

    read_tokens: float
    rows: int

    def seconds(self, pace: Pace, times: float = 1.0) -> float:
        """At this pace, by a model that takes so many `times` as long as the one it was measured with."""
        said = self.rows * MAX_NEW_TOKENS
        return times * (self.read_tokens / pace.read_tokens_per_s + said / pace.said_tokens_per_s)


def work_of(cell: Cell, task: Task, rows: Sequence[tuple[Row, str]]) -> Work:
    """Of a cell on these rows, whose answers are taken to be as long as they may be."""
    characters = sum(len(task.document(row)) for row, _ in rows) / max(1, len(rows))
    document = characters / CHARACTERS_PER_TOKEN
    if cell.length_tokens is not None:
        document = min(document, cell.length_tokens - ANSWER_TOKENS)
    prompt = document * (2 if cell.order == TWICE else 1) * (1 + cell.shots)
    if cell.fill == "iterate":
        prompt *= MAX_NEW_TOKENS  # prompt and answer are read anew for each token
    return Work(len(rows) * prompt, len(rows))


@dataclass(frozen=True)
class Pace:
    """How fast a model is here: tokens read, and tokens said by all rows of a batch, each second."""

    read_tokens_per_s: float
    said_tokens_per_s: float


def pace_of(loaded: Loaded, *, seconds: float = 1.0, rows: int = 4, tokens: int = 256) -> Pace:
    """Measured with a model, for about so many `seconds`: prefills of a batch of random tokens, then steps
    from the last of them. The first call of each is not counted."""
    model = loaded.model
    ids = torch.randint(0, model.vocab_size, (rows, tokens), device=model.device)
    with torch.inference_mode():
        _, state = model.prefill(ids)

        def read() -> object:
            return model.prefill(ids)[0].sum().item()

        def say() -> object:
            nonlocal state
            logits, state = model.step(ids[:, 0], state)
            return logits.sum().item()

        return Pace(rows * tokens / _seconds(read, seconds / 2), rows / _seconds(say, seconds / 2))


def _seconds(call: Callable[[], object], least: float) -> float:
    """Of one call, the mean over `least` seconds of them."""
    call()
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < least or not done:
        call()
        done += 1
    return passed / done


def weights_bytes(folder: Path) -> int:
    """Of the files with weights in a folder: what models are compared by before they are loaded."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
