"""The loop: it learns, saves, stops, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jrtcli.errors import CheckpointError, JrtError, UsageError
from jrtcli.train import loop
from jrtcli.train.events import Evaluated
from jrtcli.train.recall import contains

HERE = Path(__file__).parent


def _tiny_run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_run", HERE / "tiny_run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_run"] = module
    spec.loader.exec_module(module)
    return module


tiny_run = _tiny_run()


def lines(output: Path) -> list[dict[str, Any]]:
    """The metrics, without the only thing that may differ between runs."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens_per_s"} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[Any]]:
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("whole")
    result, events = tiny_run.run(str(output))
    return output, result, events


def test_learns_and_says_so(whole: tuple[Path, Any, list[Any]]) -> None:
    output, result, events = whole
    rows = [row for row in lines(output) if "loss" in row]
    assert result.ended == "done" and result.step == 40
    assert rows[-1]["ce"] < 0.7 * rows[0]["ce"]
    assert [row["stage"] for row in rows] == [0] * 4 + [1] * 4
    assert result.tokens == 20 * 12 + 20 * 18
    kinds = [type(event).__name__ for event in events]
    assert kinds[0] == "Started" and kinds.count("Progress") == 8
    assert kinds.count("Evaluated") == 4 and kinds.count("Saved") == 4


def test_best_is_the_average_that_scored(whole: tuple[Path, Any, list[Any]]) -> None:
    output, result, events = whole
    shares = [event.recall["all"] for event in events if isinstance(event, Evaluated)]
    assert result.score == max(shares) and result.best == output / "best"
    training = json.loads((output / "best" / "training.json").read_text())
    assert training["score"] == result.score and training["recipe"]["steps"] == 40
    assert training["versions"]["torch"] == torch.__version__ or training["versions"]["torch"]
    live = torch.load(output / "trainer.pt", weights_only=True)
    shipped = load_file(output / "last" / "model.safetensors")
    assert torch.equal(shipped["lm_head.weight"], live["average"]["lm_head.weight"])
    assert not torch.equal(shipped["lm_head.weight"], live["objective"]["model.lm_head.weight"])
    assert not any("tag_head" in name for name in shipped)
    reading = json.loads((output / "last" / "jrt.json").read_text())
    # The small data of these tests has no documents, so no length of passages either: 0.
    assert reading == {"template": "qcq", "context_tokens": 9, "window_tokens": 0, "stop": ["\n"]}


def test_stopped_at_any_step_goes_on_the_same(tmp_path: Path, whole: tuple[Path, Any, list[Any]]) -> None:
    for count in (7, 13):
        seen: list[int] = []

        def stop(seen: list[int] = seen, count: int = count) -> bool:
            seen.append(1)
            return len(seen) > count

        result, _ = tiny_run.run(str(tmp_path), stop=stop)
        assert result.ended == "interrupted"
    result, events = tiny_run.run(str(tmp_path))
    assert result.ended == "done" and events[0].step == 20
    assert lines(tmp_path) == lines(whole[0])
    ours, theirs = (load_file(p / "last" / "model.safetensors") for p in (tmp_path, whole[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_killed_goes_on_the_same(tmp_path: Path, whole: tuple[Path, Any, list[Any]]) -> None:
    program = [sys.executable, str(HERE / "tiny_run.py"), str(tmp_path), "0.1"]
    child = subprocess.Popen(program, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "trainer.pt").exists():
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.3)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 39, "loss": 1')  # a line cut off by the kill
    _, events = tiny_run.run(str(tmp_path))
    assert 10 <= events[0].step < 40
    assert lines(tmp_path) == lines(whole[0])


def test_another_recipe_is_refused_then_forced(tmp_path: Path) -> None:
    recipe = replace(tiny_run.recipe(str(tmp_path)), steps=10)
    loop.train(recipe, parts=tiny_run.parts())
    longer = replace(recipe, steps=12, optimizer=replace(recipe.optimizer, muon_lr=0.01))
    with pytest.raises(UsageError, match=r"optimizer\.muon_lr, steps"):
        loop.train(longer, parts=tiny_run.parts())
    assert loop.train(longer, parts=tiny_run.parts(), resume="always").step == 12
    fresh: list[Any] = []
    loop.train(longer, parts=tiny_run.parts(), resume="fresh", on_event=fresh.append)
    assert fresh[0].step == 0
    same = replace(longer, log_every=3, minutes=5.0)
    assert loop.train(same, parts=tiny_run.parts()).step == 12


def test_nothing_to_resume_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint"):
        loop.train(tiny_run.recipe(str(tmp_path)), parts=tiny_run.parts(), resume="always")
    (tmp_path / "trainer.pt").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="--fresh"):
        loop.train(tiny_run.recipe(str(tmp_path)), parts=tiny_run.parts())


def test_time_limit_stops_and_keeps(tmp_path: Path) -> None:
    recipe = replace(tiny_run.recipe(str(tmp_path)), minutes=1e-9)
    result = loop.train(recipe, parts=tiny_run.parts())
    assert result.ended == "out of time" and result.step == 0
    assert (tmp_path / "trainer.pt").exists() and result.best == tmp_path / "last"


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    given = tiny_run.parts()
    given.model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(JrtError, match="the loss is nan at step 5"):
        loop.train(tiny_run.recipe(str(tmp_path)), parts=given)


def test_a_failing_batch_is_not_swallowed(tmp_path: Path) -> None:
    given = tiny_run.parts()

    def broken(config: Any, tokenizer: Any, step: int) -> Any:
        raise JrtError("data: no documents")

    given.batch = broken
    with pytest.raises(JrtError, match="no documents"):
        loop.train(tiny_run.recipe(str(tmp_path)), parts=given)


def test_contains_folds_case_and_space() -> None:
    assert contains("it is  new\nYork City", ["nowhere", "New York"])
    assert not contains("york", ["New York"])
