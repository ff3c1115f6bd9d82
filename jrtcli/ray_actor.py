"""What runs on the nodes of a Ray cluster: the actors that answer chunks, and the source of their numbers."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from jrtcli.chunks import Row
from jrtcli.errors import JrtError
from jrtcli.manifest import run_hash
from jrtcli.output_rows import bad_row, failed_row
from jrtcli.records import Record

WHOLE_TRIES = 2
"""How often a chunk is begun as a whole; after that, row by row."""

STOP_LOOK_S = 0.5
"""Seconds between looks of an actor whether it is to stop."""


class ActorAnswerer:
    """What an actor of Ray Data holds: the model, from its start to its end."""

    def __init__(self, desk: Any, settings: bytes, answerer: str) -> None:
        import ray

        self._get, self._desk = ray.get, desk
        module, _, name = answerer.partition(":")
        try:
            self._engine = getattr(import_module(module), name)(pickle.loads(settings))
        except JrtError as error:
            self._get(desk.refuse.remote(error))
            raise
        if not self._get(desk.ready.remote(self._engine.run)):
            raise JrtError(
                "the actors answer with different configurations: the checkpoint, jrt or the GPUs are not"
                " the same on all nodes; give --dtype and --revision"
            )
        self._looked = 0.0
        self._tokens = 0

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Chunks by number -> for each its number, its pickled output rows, and the tokens read for it."""
        made: dict[str, list[Any]] = {"chunk": [], "rows": [], "tokens": []}
        for number in map(int, batch["chunk"]):
            rows = self._chunk(number)
            made["chunk"].append(number)
            made["rows"].append(pickle.dumps(rows))
            made["tokens"].append(self._engine.tokens_read - self._tokens)
            self._tokens = self._engine.tokens_read
        return made

    def _chunk(self, number: int) -> list[dict[str, Any]]:
        before, rows, made = self._get(self._desk.begin.remote(number))
        if before < WHOLE_TRIES:
            return made + list(self._watched(rows))
        for row in rows:
            if self._get(self._desk.alone.remote(row.key)):
                out = self._failed(row, before)
            else:
                answered = list(self._watched([row]))
                if not answered:
                    break  # stopped
                out = answered[0]
            self._get(self._desk.keep.remote(number, out))
            made.append(out)
        return made

    def _watched(self, rows: list[Row]) -> Iterator[dict[str, Any]]:
        """The answers, and between them a look whether to stop."""
        for row in self._engine.answer(rows):
            yield row
            if time.monotonic() - self._looked > STOP_LOOK_S:
                self._looked = time.monotonic()
                if self._get(self._desk.stopped.remote()):
                    self._engine.stop()

    def _failed(self, row: Row, before: int) -> dict[str, Any]:
        run = run_hash(self._engine.run)
        if not isinstance(row, Record):
            return bad_row(row, run=run)
        return failed_row(row, "worker", f"{before} actors died with this row, the last one alone", run=run)


def chunk_numbers(desk: Any) -> Any:
    """A datasource of Ray Data: the numbers of the chunks, as they come."""
    from ray.data.block import BlockAccessor, BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class ChunkNumbers(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(numbers, metadata)]

    def numbers() -> Iterator[Any]:
        import ray

        number = 0
        while ray.get(desk.comes.remote(number)):
            yield BlockAccessor.batch_to_block({"chunk": [number]})
            number += 1

    return ChunkNumbers()
