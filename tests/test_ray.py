"""The Ray engine on a cluster of two nodes: the same rows, whatever happens to the actors."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jrtcli.batch import Answerer, BatchSettings
from jrtcli.errors import CheckpointError, JrtError, UsageError
from jrtcli.predictions import Predictions, read_predictions
from jrtcli.ray_engine import RayEngine
from jrtcli.records import BadRow, Record

HERE = Path(__file__).parent


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # what is pickled is found by its module's name
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_checkpoint")
scripted = _load("scripted_answerer")


needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'jrt[ray]'")


def record(number: int, question: str = "What?", *, context: str | None = None) -> Record:
    text = f"Document {number}." if context is None else context
    return Record("in.jsonl", number + 1, number, f"row {number}", question, (), text, None, None, "context")


def test_without_ray_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jrtcli.ray_engine.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'jrt\[ray\]'"):
        RayEngine(BatchSettings())


@needs_ray
@pytest.mark.parametrize("wrong", ["nowhere", "host:port", "127.0.0.1:99999", "127.0.0.1:1", "ray://[::1]:1"])
def test_an_address_where_nothing_is_is_said_at_once(wrong: str) -> None:
    with pytest.raises(JrtError, match="--address"):
        RayEngine(BatchSettings(), address=wrong)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes with one CPU each."""
    node: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    with pytest.MonkeyPatch.context() as patch:
        # What the nodes' processes find; they are told nothing else by those who start the engine.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent)]))
        # A worker that waits for nothing costs seconds of a core to start.
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        # Read as Ray is imported: nothing that outlives a test may start a cluster of its own.
        patch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=node)
        cluster.add_node(**node)
        yield cluster.address
        cluster.shutdown()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def actors() -> list[int]:
    """The processes that answer, below the nodes that this process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            title = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            is_actor = title.startswith(b"ray::MapWorker(MapBatches(ActorAnswerer")
            if is_actor and parent(parent(int(entry.name))) == os.getpid():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds Ray's processes in /proc")
def test_rows_outlive_their_actors(address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Real answers on two nodes; one actor is killed and the run stopped; another engine does the rest."""
    folder = tiny.save(tmp_path / "model")
    settings = BatchSettings(model=str(folder), device="cpu", max_new_tokens=4)
    rows: list[Record | BadRow] = [
        record(i, f"Question {i}: Answer:", context=f"{tiny.TEXT} {i // 2}") for i in range(60)
    ]
    rows.append(BadRow("in.jsonl", 61, 60, None, "bad_json", "wrong"))
    out, killed = tmp_path / "out.jsonl", 0
    notes: list[str] = []
    engine = RayEngine(settings, address=address, note=notes.append)
    try:
        assert engine.actors == 2  # one for each node
        with Predictions(out, engine.run) as predictions:
            for done, row in enumerate(engine.answer(predictions.remaining(rows))):
                predictions.write(row)
                if done == 5:
                    victim = actors()[0]
                    os.kill(victim, signal.SIGKILL)
                    killed += 1
                if done == 40:
                    engine.stop()
        assert engine.tokens_read > 0
    finally:
        engine.close()
    assert killed == 1
    # Ray's own words reach neither stdout, where answers may go, nor stderr.
    said = capfd.readouterr()
    assert said.out == "" and said.err == ""
    before = len(list(read_predictions(out)))
    assert before >= 41

    alone = Answerer(settings)
    with Predictions(out, alone.run) as predictions:
        for row in alone.answer(predictions.remaining(rows)):
            predictions.write(row)
        predictions.finish(ordered=True)
    found = list(read_predictions(out))
    expected = list(alone.answer(rows))
    by_id = {row["id"]: row.get("answer") for row in expected}
    assert [row["id"] for row in found] == [*(f"row {i}" for i in range(60)), None]
    assert {row["id"]: row.get("answer") for row in found} == by_id
    assert [row["id"] for row in found if "error" in row] == [None]


@needs_ray
@pytest.mark.slow
def test_a_row_that_kills_its_actors_becomes_an_error_row(address: str, tmp_path: Path) -> None:
    import ray

    questions = ["What?"] * 20
    questions[7] = "die"
    engine = RayEngine(
        scripted.Settings(str(tmp_path)), workers="2", address=address, answerer="scripted_answerer:Scripted"
    )
    try:
        rows = list(engine.answer([record(i, question) for i, question in enumerate(questions)]))
        # It goes on with the next rows.
        assert [row["id"] for row in engine.answer([record(99)])] == ["row 99"]
        ray.kill(engine._desk)  # as where the cluster goes away
        with pytest.raises(JrtError, match=r"Ray gave up: .*; what was answered is kept"):
            list(engine.answer([record(100)]))
    finally:
        engine.close()
    assert sorted(row["id"] for row in rows) == sorted(f"row {i}" for i in range(20))
    failed = [row for row in rows if "error" in row]
    assert [(row["id"], row["error"]["kind"]) for row in failed] == [("row 7", "worker")]
    assert len({row["pid"] for row in rows if "pid" in row}) > 2


@needs_ray
@pytest.mark.slow
def test_a_model_that_is_not_there_is_said(address: str, tmp_path: Path) -> None:
    (tmp_path / "refuse").touch()
    with pytest.raises(CheckpointError, match="there is no such model"):
        RayEngine(scripted.Settings(str(tmp_path)), address=address, answerer="scripted_answerer:Scripted")
