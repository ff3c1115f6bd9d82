"""Workers: every row once, whatever happens to the processes that answer them."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from jrtcli.chunks import Chunks
from jrtcli.errors import CheckpointError, JrtError, UsageError
from jrtcli.records import BadRow, Record
from jrtcli.workers import Workers, number_of_workers

HERE = Path(__file__).parent
ANSWERER = "scripted_answerer:Scripted"


def record(number: int, question: str = "What?", *, context: str | None = None) -> Record:
    text = f"Document {number}." if context is None else context
    return Record("in.jsonl", number + 1, number, f"row {number}", question, (), text, None, None, "context")


def records(questions: Sequence[str]) -> list[Record]:
    return [record(i, question) for i, question in enumerate(questions)]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Workers]]:
    """Starts workers that are ended with the test; their notes are `workers.notes`."""
    # A spawned process has the path of the one that started it.
    monkeypatch.syspath_prepend(str(HERE))
    started: list[Workers] = []

    def start(number: int) -> Workers:
        notes: list[str] = []
        settings: Any = importlib.import_module("scripted_answerer").Settings(str(tmp_path))
        workers = Workers(settings, number, gpus=(), note=notes.append, answerer=ANSWERER)
        workers.notes = notes  # type: ignore[attr-defined]
        started.append(workers)
        return workers

    yield start
    for workers in started:
        workers.close()


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_chunks_hold_every_row_once_and_get_smaller() -> None:
    rows = records(["What?"] * 1000)
    chunks = list(Chunks(rows, workers=3, most=64))
    assert [row for chunk in chunks for row in chunk] == rows
    sizes = [len(chunk) for chunk in chunks]
    assert max(sizes) == sizes[0] == 64 and sizes[-1] == 1
    assert sorted(sizes, reverse=True) == sizes


def test_chunks_keep_a_document_together() -> None:
    rows = [record(i, context="one" if i < 20 else f"{i}") for i in range(40)]
    first = next(iter(Chunks(rows, workers=1, most=12)))
    assert [row.number for row in first] == list(range(20))
    # A document without end does not keep the others idle.
    rows = [record(i, context="one") for i in range(400)]
    assert max(len(chunk) for chunk in Chunks(rows, workers=2, most=16)) == 32


def test_chunks_look_ahead_no_further_than_they_must() -> None:
    seen: list[int] = []
    rows = (seen.append(i) or record(i) for i in range(10_000))  # type: ignore[func-returns-value]
    next(iter(Chunks(rows, workers=2, most=8)))
    assert len(seen) == 32


def test_chunks_do_not_wait_for_a_pipe_that_pauses() -> None:
    at_hand = 5
    pulled: list[int] = []

    def rows() -> Iterator[Record]:
        for i in range(20):
            pulled.append(i)
            yield record(i)

    chunks = Chunks(rows(), workers=1, most=8, idle=lambda: len(pulled) >= at_hand)
    given = [row.number for _ in range(3) for row in next(chunks)]
    assert given == list(range(5)) and len(pulled) == 5
    assert not chunks.at_hand
    at_hand = 20
    assert chunks.at_hand
    assert len([row for chunk in chunks for row in chunk]) == 15


@pytest.mark.parametrize("asked", ["0", "-1", "two", "", "1.5", "9999"])
def test_a_wrong_number_of_workers_is_a_usage_error(asked: str) -> None:
    with pytest.raises(UsageError, match="--workers"):
        number_of_workers(asked)


def test_auto_is_one_on_a_cpu() -> None:
    assert number_of_workers("auto", "cpu") == 1
    assert number_of_workers("3", "cpu") == 3


def test_every_row_is_answered_once(start: Callable[..., Workers]) -> None:
    bad = BadRow("in.jsonl", 31, 30, None, "bad_json", "wrong")
    workers = start(2)
    assert workers.run == {"model": "scripted"}
    rows = list(workers.answer([*records(["What?"] * 30), bad]))
    assert sorted(str(row["id"]) for row in rows) == sorted(["None", *(f"row {i}" for i in range(30))])
    assert workers.tokens_read == 300
    assert workers.notes == []  # type: ignore[attr-defined]
    # They go on with the next rows.
    assert [row["id"] for row in workers.answer([record(7)])] == ["row 7"]


def test_rows_of_a_worker_that_dies_are_answered(start: Callable[..., Workers]) -> None:
    questions = ["What?"] * 40
    questions[3] = questions[21] = "die once"
    workers = start(2)
    rows = list(workers.answer(records(questions)))
    assert sorted(row["id"] for row in rows) == sorted(f"row {i}" for i in range(40))
    assert not [row for row in rows if "error" in row]
    notes = workers.notes  # type: ignore[attr-defined]
    assert len(notes) == 2 and all("SIGKILL" in note for note in notes)


@pytest.mark.parametrize("how", ["die", "raise"])
def test_a_row_that_kills_its_workers_becomes_an_error_row(start: Callable[..., Workers], how: str) -> None:
    questions = ["What?"] * 12
    questions[1] = how
    rows = {row["id"]: row for row in start(1).answer(records(questions))}
    assert len(rows) == 12
    failed = rows.pop("row 1")
    assert failed["error"]["kind"] == "worker" and failed["error"]["line"] == 2
    assert ("illegal memory access" if how == "raise" else "SIGKILL") in failed["error"]["message"]
    assert not [row for row in rows.values() if "error" in row]


def test_the_last_row_may_be_the_one_that_kills(start: Callable[..., Workers]) -> None:
    rows = list(start(1).answer(records(["die"])))
    assert [row["error"]["kind"] for row in rows] == ["worker"]


def test_a_model_that_is_not_there_is_said_once(start: Callable[..., Workers], tmp_path: Path) -> None:
    (tmp_path / "refuse").touch()
    with pytest.raises(CheckpointError, match="there is no such model"):
        start(2)


def test_workers_that_die_before_they_have_a_model_end_the_run(
    start: Callable[..., Workers], tmp_path: Path
) -> None:
    (tmp_path / "die at start").touch()
    with pytest.raises(JrtError, match="while they loaded the model"):
        start(1)
    assert len(list(tmp_path.glob("started-*"))) == 3


def test_workers_that_answer_nothing_end_the_run(start: Callable[..., Workers]) -> None:
    workers = start(1)
    with pytest.raises(JrtError, match="one after the other"):
        list(workers.answer(records(["die"] * 64)))


def test_stop_finishes_what_is_in_flight(start: Callable[..., Workers], tmp_path: Path) -> None:
    workers = start(2)
    rows = []
    questions = ["wait"] * 50

    def stop() -> None:
        until((tmp_path / "waiting").exists)
        workers.stop()

    stopping = threading.Thread(target=stop)
    stopping.start()
    given = iter(workers.answer(records(questions)))
    going = threading.Timer(0.5, (tmp_path / "go").touch)
    going.start()
    rows = list(given)
    stopping.join()
    going.join()
    assert 1 <= len(rows) <= 4  # one for each worker, and one more where the word came late


def test_close_ends_the_processes(start: Callable[..., Workers], tmp_path: Path) -> None:
    workers = start(1)
    pids = workers.pids
    assert pids and all(alive(pid) for pid in pids)
    workers.close()
    assert not any(alive(pid) for pid in pids)


PARENT = """
import sys
from jrtcli.workers import Workers
from jrtcli.records import Record
from scripted_answerer import Settings
if __name__ == "__main__":
    workers = Workers(Settings(sys.argv[1]), 1, gpus=(), answerer="scripted_answerer:Scripted")
    row = Record("in.jsonl", 1, 0, "row", "wait", (), "text", None, None, "context")
    print(*workers.pids, flush=True)
    list(workers.answer([row]))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    until((tmp_path / "waiting").exists)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not alive(pid))
