"""An answerer for tests of the processes around it: no model; what the rows ask for happens."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jrtcli.errors import CheckpointError
from jrtcli.manifest import run_hash
from jrtcli.output_rows import bad_row
from jrtcli.records import Record


@dataclass(frozen=True)
class Settings:
    """What stands for jrtcli.batch.BatchSettings, which would import torch. folder: where count is kept."""

    folder: str
    device: str = "cpu"
    dtype: str = "auto"
    model: None = None
    tokenizer: None = None
    template: None = None


class Scripted:
    """Answers each row with the process that did.

    A question "die" kills the process each time, "die once" only the first time, "raise" is an error that
    nobody foresaw, "wait" takes until a file `go` is there.
    """

    def __init__(self, settings: Settings) -> None:
        self.folder = Path(settings.folder)
        (self.folder / f"started-{os.getpid()}").touch()
        if (self.folder / "refuse").exists():
            raise CheckpointError("there is no such model")
        if (self.folder / "die at start").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        self.run = {"model": "scripted"}
        self.run_hash = run_hash(self.run)
        self.tokens_read = 0
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    def answer(self, rows: Iterable[Any]) -> Iterator[dict[str, Any]]:
        for row in rows:
            if self.stopped:
                return
            if not isinstance(row, Record):
                yield bad_row(row, run=self.run_hash)
                continue
            self._act(row)
            self.tokens_read += 10
            yield {
                "id": row.id,
                "answer": row.question,
                "pid": os.getpid(),
                "jrt": {"row": row.key, "run": self.run_hash},
            }

    def _act(self, row: Record) -> None:
        first = self.folder / f"met-{row.number}"
        if row.question == "die" or (row.question == "die once" and not first.exists()):
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if row.question == "raise":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        while row.question == "wait" and not (self.folder / "go").exists():
            (self.folder / "waiting").touch()
            time.sleep(0.01)
