"""`jrt eval` with --reads auto, in shards, and in several processes: the same table every time."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jrtcli.cli import main
from jrtcli.predictions import read_predictions


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"engines_{name}", Path(__file__).parent.parent / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_checkpoint")
LINES = tiny.TEXT.splitlines()[1:6]
ROWS = [
    {
        "id": f"q{i}",
        "context": f"Lot {i % 3}. {tiny.TEXT[: 120 + 40 * (i % 3)]}",
        "question": f"{line.partition(':')[0]}:",
        "answers": [line.partition(": ")[2]],
    }
    for i, line in enumerate(LINES * 2)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "m", "based")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("SLURM_ARRAY_TASK_ID", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def _run(data: Path, folder: Path, *arguments: Any) -> int:
    return main(["eval", str(data), "-m", str(folder), "-t", "cq", "-q", *map(str, arguments)])


def _cells(out: Path) -> list[dict[str, Any]]:
    made: dict[str, Any] = json.loads((out / "results.json").read_text())
    for cell in made["cells"]:
        del cell["tokens_per_s"]
    found: list[dict[str, Any]] = made["cells"]
    return found


def _answers(out: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Of each cell: the ids, the answers, how many readings they took."""
    return {
        path.name: [
            (row["id"], row["answer"], len(row.get("readings", ()))) for row in read_predictions(path)
        ]
        for path in sorted((out / "samples").glob("*.jsonl"))
        if "-of-" not in path.name
    }


READS = ("--reads", "1,2,auto")


def test_auto_is_a_column_beside_the_numbers(
    data: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _run(data, folder, *READS, "-o", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "read again" in lines[0]
    once, twice, auto = _cells(out)
    assert (once["read_again"], twice["read_again"]) == (None, None) and 0 <= auto["read_again"] <= 1
    assert once["tokens_read"] <= auto["tokens_read"] <= twice["tokens_read"] + 10 * len(ROWS)
    assert (auto["reads"], auto["most_reads"]) == (None, 2)
    # Each answer is that of the number of readings it took.
    every = _answers(out)
    by_reading = {name.split("-")[3]: rows for name, rows in every.items()}
    for i, (_, answer, readings) in enumerate(by_reading["auto"]):
        assert answer == by_reading[f"x{readings}"][i][1]
    header, *_, last = (out / "results.csv").read_text().splitlines()
    said = dict(zip(header.split(","), last.split(","), strict=True))
    assert said["most_reads"] == "2" and float(said["read_again"]) == auto["read_again"]


def test_shards_make_the_table_of_one_run(
    data: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert _run(data, folder, *READS, "-o", whole) == 0
    assert _run(data, folder, *READS, "-o", parts, "--shard", "1/2") == 0
    capsys.readouterr()
    assert _run(data, folder, *READS, "-o", parts, "--shard", "1/2", "--json") == 0
    assert [cell["rows"] for cell in json.loads(capsys.readouterr().out)["cells"]] == [5, 5, 5]
    assert not (parts / "results.json").exists()
    # Another number of shards: what the first half has answered is left out.
    assert _run(data, folder, *READS, "-o", parts, "--shard", "2/3") == 0
    assert _run(data, folder, *READS, "-o", parts) == 0
    assert _cells(parts) == _cells(whole) and _answers(parts) == _answers(whole)
    # And once more, with nothing left to do.
    assert _run(data, folder, *READS, "-o", parts) == 0
    assert _cells(parts) == _cells(whole)


def test_two_workers_make_the_table_of_one_process(data: Path, folder: Path, tmp_path: Path) -> None:
    whole, split = tmp_path / "whole", tmp_path / "split"
    both = [*READS, "--device", "cpu"]
    assert _run(data, folder, *both, "-o", whole) == 0
    assert _run(data, folder, *both, "-o", split, "--workers", "2", "--limit", "4") == 0
    assert _run(data, folder, *both, "-o", split, "--workers", "2") == 0
    assert _cells(split) == _cells(whole) and _answers(split) == _answers(whole)


@pytest.mark.slow
def test_a_ray_cluster_makes_the_table_of_one_process(data: Path, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    whole, split = tmp_path / "whole", tmp_path / "split"
    here = os.getcwd()
    os.chdir(folder.parent)  # an actor stands in another folder
    try:
        for out, more in ((whole, []), (split, ["--engine", "ray", "--workers", "2"])):
            chosen = ["--reads", "1,auto", "--device", "cpu", "--dtype", "float32", "-o", out, *more]
            assert _run(data, Path(folder.name), *chosen) == 0
    finally:
        os.chdir(here)
    assert _cells(split) == _cells(whole) and _answers(split) == _answers(whole)


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["--shard", "1/2"], "give -o DIR"),
        (["--shard", "3/2", "-o", "OUT"], "shards count from 1"),
        (["--workers", "none"], "--workers none"),
        (["--engine", "dask"], "no --engine 'dask'"),
        (["--address", "a:1"], "add --engine ray"),
        (["--reads", "auto:1"], "--reads auto:1"),
        (["--reads", "auto", "--shots", "1"], "cannot be read on"),
        (["--reads", "65", "-t", "ccq"], "cannot be read so often"),
        (["--calibrate", "--workers", "2"], "runs in one process"),
        (["--calibrate", "--reads", "1"], "one --reads of 2 or more"),
    ],
)
def test_what_is_refused(
    data: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    code = _run(data, folder, *[str(tmp_path / "o") if each == "OUT" else each for each in arguments])
    out, err = capsys.readouterr()
    assert code in (1, 2) and out == "" and said in err.splitlines()[-1]


def test_an_encoder_is_refused_before_anything_is_read(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.save(tmp_path / "e", "jrt_rnn")
    assert _run(data, model, "--reads", "1,auto", "-o", tmp_path / "out") == 1
    assert "encoder" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.jsonl"))


def test_a_scheduler_names_the_shard(
    data: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert _run(data, folder, "-o", tmp_path / "out") == 0
    (path,) = (tmp_path / "out" / "samples").glob("*.jsonl")
    assert path.name.endswith("-00002-of-00002.jsonl") and len(list(read_predictions(path))) == 5
