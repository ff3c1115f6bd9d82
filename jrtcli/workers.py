"""Workers: several processes that answer the rows of one input, each with a model of its own.

This process reads the rows and hands them out; a worker that dies is replaced, and its rows are answered by
whoever is free. Of rows that were in flight together when it died nobody knows which one is to blame: they
are handed out in halves until the one that kills its worker every time is alone, and becomes an error row.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from jrtcli.chunks import ROWS, Chunks, Row, never
from jrtcli.errors import JrtError, UsageError
from jrtcli.manifest import run_hash
from jrtcli.output_rows import bad_row, failed_row
from jrtcli.records import Record
from jrtcli.worker import work
from jrtcli.worker_place import WorkerPlace

if TYPE_CHECKING:
    from jrtcli.batch import BatchSettings

TRIES = 3
"""Workers that a row may take with it before it is an error row."""

STARTS = 3
"""Workers in a row that may die before their model is loaded, until their place is given up."""

BARREN_DEATHS = 10
"""Workers in a row that may die without one answer in between, until the whole run is given up."""

LOOK_S = 1.0
"""Seconds between looks whether the workers live: a process that a worker left behind can hide its death."""


def number_of_workers(asked: str, device: str = "auto") -> int:
    """ "auto" or a number -> how many. Raises UsageError.

    auto: one for each visible GPU; on a CPU one, since PyTorch's threads use all cores for one model, and
    each further process holds the model once more.
    """
    if asked != "auto":
        if not asked.isascii() or not asked.isdigit() or not 1 <= int(asked) <= 1024:
            raise UsageError(f"--workers {asked}: give a number from 1 to 1024, or auto")
        return int(asked)
    return max(1, len(visible_gpus())) if device in ("auto", "cuda") else 1


def visible_gpus() -> list[str]:
    """The GPUs that PyTorch sees here, as CUDA_VISIBLE_DEVICES names them; none of them is initialised."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in named.split(",")] if named else []
    return names[:count] if len(names) >= count else [str(i) for i in range(count)]


class Workers:
    """Answers rows with `number` processes, as jrtcli.batch.Answerer does with one.

    settings: of every worker. gpus: the n-th worker sees the n-th of them, in turn; None: all that are
    visible, unless `settings.device` names one device. note: told what happens to the workers, a line each.
    answerer: "module:attribute" of what a worker calls with the settings. Attributes: `run`, what the answers
    depend on, and `run_hash`; `tokens_read`; `idle`, to be set: whether the next row has to be waited for.
    Raises JrtError where no worker can load the model.
    """

    def __init__(
        self,
        settings: BatchSettings,
        number: int,
        *,
        gpus: Sequence[str] | None = None,
        note: Callable[[str], None] = lambda text: None,
        answerer: str = "jrtcli.batch:Answerer",
    ) -> None:
        # fork would copy the locks of this process's threads, and CUDA does not survive it.
        self._context = multiprocessing.get_context("spawn")
        # As bytes: settings name a module that imports torch, and a worker has things to do before.
        self._settings = pickle.dumps(settings)
        self._answerer, self._note = answerer, note
        if gpus is None:
            gpus = visible_gpus() if settings.device in ("auto", "cuda") else ()
        self._most = ROWS["cuda" if gpus or settings.device.startswith("cuda") else "cpu"]
        self._threads = None if gpus else max(1, _cores() // number)
        self._places = [
            WorkerPlace(i + 1, gpu=gpus[i % len(gpus)] if gpus else None) for i in range(max(1, number))
        ]
        self._suspects: deque[list[Row]] = deque()
        self._deaths: Counter[str] = Counter()
        self._barren = 0
        self._tokens_of_the_dead = 0
        self._stopped = self._ended = False
        self.idle: Callable[[], bool] = never
        self._run: dict[str, Any] | None = None
        try:
            for place in self._places:
                self._start(place)
            while self._run is None:
                for _ in self._hear():
                    pass
        except BaseException:
            self.close()
            raise

    @property
    def run(self) -> dict[str, Any]:
        """What the answers depend on, as the first worker said."""
        assert self._run is not None
        return self._run

    @property
    def run_hash(self) -> str:
        """Its hash."""
        return run_hash(self.run)

    @property
    def tokens_read(self) -> int:
        """Tokens that the workers have read so far, as of their last answers."""
        return self._tokens_of_the_dead + sum(place.tokens_read for place in self._places)

    @property
    def pids(self) -> list[int]:
        """Of the processes that live."""
        return [place.process.pid for place in self._live() if place.process and place.process.pid]

    def answer(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        """An output row for each, in the order in which they are done.

        Raises JrtError where workers die one after the other and no row is answered in between.
        """
        self._ended = False
        chunks = Chunks(rows, workers=len(self._places), most=self._most, idle=self.idle)
        while self._hand_out(chunks):
            yield from self._hear()

    def stop(self) -> None:
        """Hand out no more rows; those whose reading has begun are still answered. May be called from a
        signal handler."""
        self._stopped = True
        for place in self._live():
            # One that has just died has nothing left to stop.
            with suppress(OSError):
                if place.control is not None:
                    place.control.send_bytes(b"stop")

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        self._stopped = True
        processes = [place.process for place in self._places if place.process is not None]
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for place in self._places:
            place.clear()

    def _live(self) -> list[WorkerPlace]:
        return [place for place in self._places if place.process is not None]

    def _start(self, place: WorkerPlace) -> None:
        place.start(self._context, work, self._settings, self._answerer, self._threads)

    def _hand_out(self, chunks: Chunks) -> bool:
        """Give each idle worker its next rows. Returns whether there is something to wait for."""
        for place in self._live():
            if place.ready and not place.busy and not self._stopped:
                if not self._suspects and any(one.busy for one in self._places) and not chunks.at_hand:
                    break  # answers may come before the next row does
                chunk = self._suspects.popleft() if self._suspects else next(chunks, None)
                if chunk is None:
                    self._ended = True
                    break
                place.busy, place.rows = True, {row.key: row for row in chunk}
                assert place.connection is not None
                # One that died in between is heard of next.
                with suppress(OSError):
                    place.connection.send(chunk)
        more = not self._stopped and (not self._ended or bool(self._suspects))
        return more or any(place.busy for place in self._places)

    def _hear(self) -> Iterator[dict[str, Any]]:
        """Wait for the workers and take what they say."""
        by_end = {place.connection: place for place in self._live() if place.connection is not None}
        for end in wait(list(by_end), LOOK_S):
            assert isinstance(end, Connection)
            place = by_end[end]
            try:
                yield from self._take(place, end.recv())
            except (EOFError, OSError):
                yield from self._bury(place)
        for place in self._live():
            if place.dead:
                yield from self._bury(place)

    def _take(self, place: WorkerPlace, said: tuple[str, Any, int]) -> Iterator[dict[str, Any]]:
        kind, value, place.tokens_read = said
        if kind == "row":
            if place.rows.pop(value["jrt"]["row"], None) is not None:
                self._barren = 0
                yield value
        elif kind == "ready":
            place.ready, place.starts = True, 0
            self._run = self._run or value
            if value != self._run:
                raise JrtError(
                    f"{place.name} answers with another configuration than the first one:"
                    " the checkpoint changed meanwhile, or the GPUs differ; give --dtype and --revision"
                )
        elif kind == "done":
            # Stopped, it leaves rows unanswered: they are for another run.
            assert self._stopped or not place.rows, f"{place.name} left rows unanswered"
            place.busy, place.rows = False, {}
        elif kind == "refused" and self._run is None:
            raise value
        else:
            place.reason = str(value)

    def _bury(self, place: WorkerPlace) -> Iterator[dict[str, Any]]:
        """A worker died: put another into its place, and its rows aside."""
        how = place.bury()
        rows, was_ready = list(place.rows.values()), place.ready
        self._tokens_of_the_dead += place.tokens_read
        place.clear()
        if self._stopped:
            return
        if not was_ready:
            place.starts += 1
        self._barren += 1
        others = len(self._live())
        given_up = place.starts >= STARTS
        aside = f"; its {len(rows)} rows are answered by others" if rows else ""
        self._note(f"{place.name} {how}{aside}" + ("; its place stays empty" if given_up else ""))
        if (given_up and not others) or self._barren >= BARREN_DEATHS:
            while_ = "answered" if was_ready else "loaded the model"
            raise JrtError(
                f"the workers died one after the other while they {while_} (the last one {how}):"
                " what was answered is kept; try fewer --workers, or none to see more"
            )
        yield from self._suspect(rows, how)
        if not given_up:
            self._start(place)

    def _suspect(self, rows: list[Row], how: str) -> Iterator[dict[str, Any]]:
        """Rows whose worker died: in halves, or the error row of the one that was alone again and again."""
        self._deaths.update(row.key for row in rows)
        if len(rows) == 1 and self._deaths[rows[0].key] >= TRIES:
            row = rows[0]
            said = f"{self._deaths[row.key]} workers died with this row, the last one {how}"
            if isinstance(row, Record):
                yield failed_row(row, "worker", said, run=self.run_hash)
            else:
                yield bad_row(row, run=self.run_hash)
            return
        half = (len(rows) + 1) // 2
        self._suspects.extend(part for part in (rows[:half], rows[half:]) if part)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
