"""`jrt batch` in shards and with workers: the same answers as in one process."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jrtcli.cli import main


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent.parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_checkpoint")


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save(tmp_path_factory.mktemp("checkpoint") / "model"))


def write_rows(path: Path, count: int) -> Path:
    rows = [
        {"id": f"r{i}", "context": f"{tiny.TEXT} {i // 3}", "question": f"Question {i}:"}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers(path: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row.get("answer") for row in rows}


def batch(*arguments: object, model: str) -> int:
    return main(["batch", *map(str, arguments), "--model", model, "--max-new-tokens", "4", "--device", "cpu"])


def test_shards_whose_number_changes_are_merged_into_the_run_of_one(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 14), tmp_path / "out.jsonl"
    alone = tmp_path / "alone.jsonl"
    assert batch(rows, "-o", alone, model=model) == 0
    assert batch(rows, "-o", out, "--shard", "2/3", model=model) == 0
    for shard in ("1/2", "2/2"):
        assert batch(rows, "-o", out, "--shard", shard, model=model) == 0
    assert main(["batch", "merge", str(out)]) == 0
    assert answers(out) == answers(alone)
    done = [len(answers(path)) for path in sorted(tmp_path.glob("out-*.jsonl"))]
    assert sum(done) == 14  # none of them twice
    assert "rows that other outputs have answered are left out (1 file)" in capsys.readouterr().err
    # The merged output is one that a run goes on with: nothing is left to do.
    assert batch(rows, "-o", out, "--ordered", model=model) == 0
    assert list(answers(out)) == [f"r{i}" for i in range(14)]


def test_a_scheduler_names_the_shard(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert batch(rows, "-o", out, model=model) == 0
    assert "shard 2/2 (RANK=1)" in capsys.readouterr().err
    assert not out.exists() and list(answers(tmp_path / "out-00002-of-00002.jsonl")) == ["r1", "r3"]
    # What the command line says comes first.
    assert batch(rows, "-o", out, "--shard", "1/5", model=model) == 0
    assert list(answers(tmp_path / "out-00001-of-00005.jsonl")) == ["r0"]


def test_another_configuration_is_refused_across_shards(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 4), tmp_path / "out.jsonl"
    assert batch(rows, "-o", out, "--shard", "1/2", model=model) == 0
    assert batch(rows, "-o", out, "--shard", "1/3", "--template", "cq", model=model) == 2
    assert "template cqcq there, cq now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shard", "0/3"], "shards count from 1"),
        (["--workers", "0"], "--workers 0"),
        (["--engine", "dask"], "choose local, ray"),
        (["--address", "auto"], "add --engine ray"),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 1)
    assert main(["batch", str(rows), "-o", str(tmp_path / "out.jsonl"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_a_shard_needs_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 1)
    assert main(["batch", str(rows), "--shard", "1/2"]) == 2
    assert "-o OUT.jsonl" in capsys.readouterr().err


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _children(pid: int) -> list[int]:
    """The workers: children that were spawned, without the process that tracks them."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit():
                continue
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_workers_that_are_killed_and_interrupted_lose_nothing(model: str, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 400), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "jrtcli", "batch", str(rows), "-o", str(out), "--model", model]
    command += ["--max-new-tokens", "4", "--device", "cpu"]

    def start() -> subprocess.Popen[str]:
        # A session of its own, as a terminal's: Ctrl-C reaches the workers too.
        return subprocess.Popen(
            [*command, "--workers", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    first = start()
    while _lines(out) < 20:
        time.sleep(0.01)
    os.kill(_children(first.pid)[0], signal.SIGKILL)
    while _lines(out) < 100:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGINT)
    _, said = first.communicate()
    assert first.returncode == 130, said
    assert "SIGKILL" in said and "Traceback" not in said
    assert _lines(out) < 400

    second = start()
    before = _lines(out)
    while _lines(out) < before + 20:
        time.sleep(0.01)
    workers = _children(second.pid)
    second.kill()
    second.communicate()
    while any(_lives(pid) for pid in workers):
        time.sleep(0.01)

    alone = tmp_path / "alone.jsonl"
    assert main([*command[3:], "--workers", "1"]) == 0
    assert batch(rows, "-o", alone, model=model) == 0
    assert answers(out) == answers(alone)
