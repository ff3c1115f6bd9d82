"""The rows of one input on a Ray cluster: Ray Data feeds actors that hold the model, on any number of nodes.

What goes through Ray Data are numbers of chunks; the rows themselves lie on a desk, an actor on this node,
until they are answered. A chunk whose actor died is begun again by Ray, with the same rows, and the desk
knows how often that was: the third time its rows are answered one by one, so that the one that kills its
actors is found and becomes an error row. This process reads the input and is the only writer of the output.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jrtcli.chunks import ROWS, Chunks, Row, never
from jrtcli.desk import Desk
from jrtcli.errors import JrtError, UsageError
from jrtcli.manifest import run_hash
from jrtcli.placement import resolve_dtype
from jrtcli.ray_actor import ActorAnswerer, chunk_numbers
from jrtcli.ray_notes import Notes, quiet_backend
from jrtcli.workers import number_of_workers

if TYPE_CHECKING:
    from jrtcli.batch import BatchSettings

WAIT_NOTE_S = 60.0
"""Seconds without a first actor, until the user is told what the cluster is asked for."""

REACH_S = 10.0
"""Seconds a cluster has to take a connection."""

EXIT_S = 2.0
"""Seconds the actors have to end in peace."""


class RayEngine:
    """Answers rows on a Ray cluster, as jrtcli.batch.Answerer does in one process.

    settings: of every actor. workers: the number of actors, or "auto": one for each GPU of the cluster; where
    it has none, one for each node. address: of the cluster ("auto", "host:port"); None: RAY_ADDRESS, else a
    cluster on this machine alone, which ends with the run. note: told what happens, a line each. answerer:
    "module:attribute" of what an actor calls with the settings. Attributes: `run`, what the answers depend
    on, and `run_hash`; `tokens_read`; `idle`, to be set: whether the next row has to be waited for. Raises
    UsageError without Ray, JrtError where there is no cluster at the address or no actor can load the model.
    """

    def __init__(
        self,
        settings: BatchSettings,
        *,
        workers: str | None = None,
        address: str | None = None,
        note: Callable[[str], None] = lambda text: None,
        answerer: str = "jrtcli.batch:Answerer",
    ) -> None:
        if find_spec("ray") is None:
            raise UsageError("--engine ray needs Ray: pip install 'jrt[ray]'")
        self._note = note
        self._given: dict[int, int] = {}
        self._stopped = False
        self.tokens_read = 0
        self.idle: Callable[[], bool] = never
        self._open = ExitStack()
        try:
            self._connect(address)
            self._begin(settings, workers, answerer)
            self.run = self._hello()
        except BaseException:
            self.close()
            raise

    @property
    def run_hash(self) -> str:
        """Hash of what the answers depend on."""
        return run_hash(self.run)

    def answer(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        """An output row for each, in the order in which their chunks are done. Raises JrtError where Ray
        gives up."""
        chunks = Chunks(rows, workers=self.actors, most=self._most, idle=self.idle)
        ended = False
        # Two chunks for each actor: the next one is there when one is done.
        while True:
            while not ended and not self._stopped and len(self._given) < 2 * self.actors:
                if self._given and not chunks.at_hand:
                    break  # answers may come before the next row does
                chunk = next(chunks, None)
                if chunk is None:
                    ended = True
                else:
                    self._given[self._got(self._desk.put.remote(chunk))] = len(chunk)
            if not self._given:
                return
            yield from self._take(self._next())

    def stop(self) -> None:
        """Begin no more rows; those whose reading has begun are still answered. May be called from a signal
        handler."""
        self._stopped = True
        self._desk.stop.remote()

    def close(self) -> None:
        """Leave the cluster; what its actors are doing ends."""
        self._stopped = True
        self._open.close()

    def _connect(self, address: str | None) -> None:
        # Ray's own messages go to stdout, where the answers may go.
        self._open.enter_context(redirect_stdout(Notes(self._note)))
        # Else a call that comes after the end would start a cluster of its own.
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        import ray
        import ray.data

        self._get = ray.get
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setLevel(logging.CRITICAL)
        if ray.is_initialized():
            return
        address = os.environ.get("RAY_ADDRESS") if address is None else address
        _check_reachable(address)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            quiet["include_dashboard"] = False
        try:
            with quiet_backend():
                ray.init(address, **quiet)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            if address is None:
                raise JrtError(f"Ray does not start on this machine: {reason}") from error
            raise JrtError(f"--address {address}: no Ray cluster can be reached there ({reason})") from error
        self._open.callback(ray.shutdown)

    def _begin(self, settings: BatchSettings, workers: str | None, answerer: str) -> None:
        import ray
        import ray.data
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        gpus = int(ray.cluster_resources().get("GPU", 0)) if settings.device != "cpu" else 0
        if not gpus and settings.device not in ("auto", "cpu"):
            raise UsageError(f"--device {settings.device}: the Ray cluster has no GPU; take --device cpu")
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        cpus = [count for count in cpus if count] or [1]
        asked = number_of_workers(workers, "cpu") if workers not in (None, "auto") else None
        self.actors = asked or gpus or len(cpus)
        device = "cuda" if gpus else "cpu"
        self._most = ROWS[device]
        # Each actor has the same device and dtype, which this node may lack: what "auto" is, is said here.
        dtype = resolve_dtype(settings.dtype, device)
        settings = replace(settings, device=device, dtype=dtype, **_absolute(settings))
        # Ray gives an actor's PyTorch as many threads as it has CPUs.
        needs: dict[str, float] = {"num_cpus": min(min(cpus), max(1, sum(cpus) // self.actors))}
        if gpus:
            needs = {"num_cpus": 1, "num_gpus": 1}
        self._needs = needs
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._desk: Any = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote()
        numbers = ray.data.read_datasource(chunk_numbers(self._desk), override_num_blocks=1, num_cpus=0)
        rows = numbers.map_batches(
            ActorAnswerer,
            fn_constructor_args=(self._desk, pickle.dumps(settings), answerer),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=self.actors, max_tasks_in_flight_per_actor=1),
            **needs,
        )
        # An actor that dies is started again, and its task begun again, without end: Ray Data's own defaults.
        # One chunk is one block, and one block one task of an actor: nothing waits to be put together.
        rows.context.target_max_block_size = 1
        rows.context.enable_progress_bars = False
        self._made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # In a thread, so that Ctrl-C is heard while Ray waits.
        self._consumer = threading.Thread(target=self._consume, args=(rows,), daemon=True)
        self._consumer.start()
        self._open.callback(self._end)

    def _consume(self, rows: Any) -> None:
        try:
            for batch in rows.iter_batches(batch_size=None, prefetch_batches=0):
                self._made.put(batch)
        except BaseException as error:
            self._made.put(error)
        else:
            self._made.put(JrtError("Ray ended before all rows were answered"))

    def _end(self) -> None:
        with suppress(Exception):  # it may be gone, with its node
            self._get(self._desk.end.remote(), timeout=EXIT_S)
        self._consumer.join(EXIT_S)

    def _hello(self) -> dict[str, Any]:
        """Wait for the first actor."""
        import ray

        said = self._desk.hello.remote()
        started, noted = time.monotonic(), False
        while not ray.wait([said], timeout=1.0)[0]:
            if not self._made.empty() and not ray.wait([said], timeout=1.0)[0]:
                self._next()
            if not noted and time.monotonic() - started > WAIT_NOTE_S:
                noted = True
                asked = ", ".join(f"{name} {value:g}" for name, value in self._needs.items())
                self._note(f"still waiting for the first of {self.actors} actors ({asked} each)")
        kind, value = self._got(said)
        if kind == "refused":
            raise value
        run: dict[str, Any] = value
        return run

    def _got(self, said: Any) -> Any:
        """What the desk answers. Raises JrtError where it is gone, with its node or the whole cluster."""
        from ray.exceptions import RayError

        try:
            return self._get(said)
        except RayError as error:
            raise _gave_up(error) from error

    def _next(self) -> dict[str, Any]:
        made = self._made.get()
        if isinstance(made, BaseException):
            raise _gave_up(made) from made
        batch: dict[str, Any] = made
        return batch

    def _take(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for number, rows, tokens in zip(*(list(batch[k]) for k in ("chunk", "rows", "tokens")), strict=True):
            # Of a chunk that was begun twice one answer counts.
            count = self._given.pop(int(number), None)
            if count is None:
                continue
            self._desk.drop.remote(int(number))
            self.tokens_read += int(tokens)
            answered = pickle.loads(rows)
            assert self._stopped or len(answered) == count, "an actor left rows unanswered"
            yield from answered


def _gave_up(error: BaseException) -> JrtError:
    reason = " ".join(str(error).split())[-300:]
    return JrtError(f"Ray gave up: {reason}; what was answered is kept")


def _check_reachable(address: str | None) -> None:
    """Say at once where nothing answers: Ray would try for many minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d{1,5})", address or "")
    if found is None or int(found[2]) > 65535:
        if address not in (None, "auto", "local"):
            raise UsageError(f"--address {address}: give HOST:PORT, or auto for the cluster that runs here")
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=REACH_S).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise JrtError(f"--address {address}: no Ray cluster can be reached there ({reason})") from None


def _absolute(settings: BatchSettings) -> dict[str, Any]:
    """The settings that name something on this machine's disk: an actor stands in another folder."""
    found: dict[str, Any] = {}
    for name in ("model", "tokenizer", "template"):
        value = getattr(settings, name)
        if value is not None and Path(value).expanduser().exists():
            found[name] = str(Path(value).expanduser().resolve())
    return found
