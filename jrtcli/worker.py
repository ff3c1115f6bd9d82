"""A worker: one process that answers the rows another process sends it."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from contextlib import suppress
from importlib import import_module
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

from jrtcli.errors import JrtError

EXIT_ORPHANED = 1


def work(
    connection: Connection,
    control: Connection,
    settings: bytes,
    answerer: str,
    gpu: str | None,
    threads: int | None,
) -> None:
    """Load the model, say ("ready", run, 0), then answer chunks of rows until the parent is gone.

    Says ("row", output row, tokens read so far) for each row and ("done", None, tokens) after a chunk;
    ("refused", JrtError, 0) where the model cannot be loaded, and ("failed", reason, tokens) before it ends
    for anything else. settings: pickled BatchSettings. answerer: "module:attribute" of what is called with
    them. gpu: the only one it may see; None: as the parent. threads: of PyTorch, unless OMP_NUM_THREADS says.
    """
    # Ctrl-C in a terminal reaches all processes: the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stopping = _Stopping(control)
    # Read by PyTorch as it is imported, which nobody has done here so far.
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    tokens = 0
    try:
        module, _, name = answerer.partition(":")
        try:
            engine = getattr(import_module(module), name)(pickle.loads(settings))
        except JrtError as error:
            connection.send(("refused", error, 0))
            return
        stopping.watch(engine)
        connection.send(("ready", engine.run, 0))
        while True:
            chunk = connection.recv()
            for row in engine.answer(chunk):
                tokens = engine.tokens_read
                connection.send(("row", row, tokens))
            tokens = engine.tokens_read
            connection.send(("done", None, tokens))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except Exception as error:
        # Whatever it is, this process is not to be trusted any more: CUDA, for one, does not recover.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        with suppress(OSError):
            connection.send(("failed", f"failed ({reason})", tokens))


class _Stopping:
    """Waits beside the work: the parent's word to stop, or its end."""

    def __init__(self, control: Connection) -> None:
        self._control = control
        self._engine: Any = None
        self._stopped = False
        threading.Thread(target=self._wait, daemon=True).start()

    def watch(self, engine: Any) -> None:
        """The one to stop, from now on."""
        self._engine = engine
        if self._stopped:
            engine.stop()

    def _wait(self) -> None:
        parent = parent_process()
        assert parent is not None
        ends: list[Any] = [parent.sentinel, self._control]
        while True:
            heard = wait(ends)
            if parent.sentinel in heard:
                # Killed, it could end nobody; rows that are still answered would go nowhere.
                os._exit(EXIT_ORPHANED)
            try:
                self._control.recv_bytes()
            except (EOFError, OSError):
                os._exit(EXIT_ORPHANED)
            self._stopped = True
            if self._engine is not None:
                self._engine.stop()
