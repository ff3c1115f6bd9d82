"""A batch killed at random moments and started again: the output is as if nothing had happened."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import jrtcli
from jrtcli.batch import Answerer, BatchSettings
from jrtcli.predictions import Predictions, read_predictions
from jrtcli.records import RecordReader

ROWS = 300
KILLS = 50


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"kill_{name.replace('/', '_')}", Path(__file__).parent / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("train/tiny_models")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("kill"), "gla")


def write_rows(path: Path, count: int = ROWS) -> Path:
    """Two rows for each document, a line that is no row and a document that is not there among them."""
    draw = random.Random(0)
    lines = []
    context = ""
    for number in range(count):
        if number % 2 == 0:
            first = number % 40
            context = f"{number} {tiny.WORDS[first : first + 20 + draw.randrange(40)]}"
        row = {"id": number, "question": f"where is {number}", "context": context}
        lines.append(json.dumps(row))
        if number == 100:
            lines.append("this is no row")
        if number == 200:
            lines.append(json.dumps({"id": "lost", "doc": "missing.txt", "question": "?"}))
    path.write_text("\n".join(lines) + "\n")
    return path


def lasting(path: Path) -> list[str]:
    """What does not change from run to run: all but the times, and what a reading was shared with."""
    kept = []
    for row in read_predictions(path):
        row.pop("timings", None)
        for name in ("read", "reused"):
            row.get("tokens", {}).pop(name, None)
        confidence = row.pop("confidence", None)
        kept.append(json.dumps(row | {"confidence": confidence and round(confidence, 3)}, sort_keys=True))
    return kept


def run(loaded: Any, rows: Path, out: Path, *, ordered: bool) -> None:
    answerer = Answerer(BatchSettings(max_new_tokens=3, batch_size=4, template="cqcq"), loaded=loaded)
    with Predictions(out, answerer.run) as predictions:
        for row in answerer.answer(predictions.remaining(RecordReader(rows))):
            predictions.write(row)
        predictions.finish(ordered=ordered)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_fifty_kills(folder: Path, name: str, tmp_path: Path) -> None:
    loaded = jrtcli.load(folder)
    _ = loaded.tokenizer
    rows, out = write_rows(tmp_path / "in.jsonl"), tmp_path / name
    draw = random.Random(name)
    killed = 0
    ordered = name.endswith(".gz")
    while True:
        # The child has everything imported and the model loaded: what is killed is the batch.
        child = os.fork()
        if not child:
            try:
                run(loaded, rows, out, ordered=ordered)
                os._exit(0)
            except BaseException:
                os._exit(1)
        ended = False
        if killed < KILLS:
            size = out.stat().st_size if out.exists() else 0
            grown = size + draw.choice((0, 0, 1, 3, 6)) * (60 if ordered else 500)
            while not ended and (out.stat().st_size if out.exists() else 0) <= grown:
                ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
                time.sleep(0.001)
            time.sleep(draw.random() * 0.02)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            continue
        assert os.WEXITSTATUS(status) == 0
        if killed == KILLS:
            break
        out.unlink()  # all is done: the kills that are left need work to disturb
    assert killed == KILLS
    undisturbed = tmp_path / f"undisturbed-{name}"
    run(loaded, rows, undisturbed, ordered=ordered)
    found, expected = lasting(out), lasting(undisturbed)
    assert len(found) == len(set(found)) == ROWS + 2
    assert sorted(found) == sorted(expected)
    if ordered:
        assert found == expected
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
def test_the_program_itself(folder: Path, tmp_path: Path) -> None:
    """`jrt batch` killed from outside, and the same command again."""
    rows, out = write_rows(tmp_path / "in.jsonl", 60), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "jrtcli", "batch", str(rows), "-o", str(out), "-m", str(folder), "-q"]
    command += ["--max-new-tokens", "3", "--batch-size", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = 0
    for _ in range(2):
        with subprocess.Popen(command, env=environment) as program:
            while (lines := out.read_bytes().count(b"\n") if out.exists() else 0) < done + 5:
                assert program.poll() is None
                time.sleep(0.005)
            program.kill()
        done = lines
    assert 10 <= len(out.read_bytes().splitlines()) < 61
    assert subprocess.run(command, env=environment, timeout=60).returncode == 0
    assert sorted(row["id"] for row in read_predictions(out)) == list(range(60))
