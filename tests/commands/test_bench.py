"""`jrt bench` from the command line: formats that read back, wrong arguments, an interruption."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from jrtcli.bench import setting
from jrtcli.bench.ceilings import Ceilings
from jrtcli.bench.rows import Row
from jrtcli.cli import main

TINY = ["bench", "prefill", "--op", "taylor", "--shape", "2x4x64", "--length", "32,64", "--repeat", "3"]
TINY += ["--backend", "torch", "--peer", "flash,fla-parallel", "--device", "cpu", "--threads", "1"]
RUNNERS = ["flash", "torch", "fla-parallel", "jrt-prompt"]


@pytest.fixture(autouse=True)
def ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known ceilings: to measure them takes seconds."""

    def known(clock: Any, dtype: str) -> Ceilings:
        return Ceilings(dtype, 1e10, 1e11)

    monkeypatch.setattr(setting, "measure", known)


def test_json_has_one_record_a_row_with_the_machine_in_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--format", "json", "--quiet"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert shown.err == ""
    assert [row["runner"] for row in found] == RUNNERS * 2
    for row in found:
        assert row["cpu_info"] and "torch=" in row["versions"] and row["clock"] == "process CPU time"
        assert row["repeats"] == len(row["samples_ms"])
        if row["runner"] == "fla-parallel":
            assert row["median_ms"] is None and "GPU" in row["note"]
        else:
            assert row["repeats"] == 3 and row["error"] < 1e-4
            assert min(row["samples_ms"]) <= row["median_ms"] <= max(row["samples_ms"])


def test_csv_reads_back_as_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--format", "csv", "--quiet"]) == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["runner"] for row in found] == RUNNERS * 2
    assert {row["tokens"] for row in found} == {"32", "64"}
    for row in found:
        assert len(row["samples_ms"].split()) == int(row["repeats"])
        assert bool(row["median_ms"]) == (row["runner"] != "fla-parallel")


def test_markdown_is_one_table_under_its_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--format", "md", "--quiet"]) == 0
    out = capsys.readouterr().out
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "over flash" in table[0] and "2 × 32" not in out
    assert any(line.startswith("- device ") for line in out.splitlines())


def test_the_table_says_where_it_was_made_and_says_a_reason_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--paper"]) == 0
    shown = capsys.readouterr()
    for word in ("device ", "versions ", "ceilings ", "process CPU time", "a CPU's times", "UTC"):
        assert word in shown.out
    assert shown.out.count("GPUs only") == 1 and " any " in shown.out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--op", "taylr"], "--op taylr"),
        (["--length", "64-32"], "--length"),
        (["--batch", "x"], "--batch"),
        (["--backend", "cuda"], "--backend cuda"),
        (["--peer", "flash3"], "--peer flash3"),
        (["--format", "yaml"], "yaml"),
        (["--dtype", "float8"], "float8"),
        (["--threads", "4096"], "--threads 4096"),
        (["--shape", "16"], "--shape"),
        (["--device", "cuda:7"], "cuda:7"),
        (["--repeat", "0"], "--repeat"),
    ],
)
def test_wrong_arguments(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, *arguments]) == 2
    shown = capsys.readouterr()
    assert word in shown.err and shown.err.count("\n") == 1 and shown.out == ""


def test_an_interruption_shows_what_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jrtcli.bench import kernels

    whole = kernels.prefill

    def stopped(*given: Any) -> Iterator[Row]:
        made = whole(*given)
        yield next(made)
        yield next(made)
        raise KeyboardInterrupt

    monkeypatch.setattr(kernels, "prefill", lambda *given: (row for row in stopped(*given)))
    assert main([*TINY, "--format", "json"]) == 130
    shown = capsys.readouterr()
    assert [row["runner"] for row in json.loads(shown.out)] == RUNNERS[:2]
    assert "interrupted: 2 of 8 rows" in shown.err
