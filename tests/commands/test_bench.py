"""`jrt bench` from the command line: formats that read back, wrong arguments, an interruption."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from jrtcli.bench import setting
from jrtcli.bench.ceilings import Ceilings
from jrtcli.bench.rows import Row
from jrtcli.bench.shapes import SHAPES
from jrtcli.cli import main
from jrtcli.commands import bench_show

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


def test_a_picture_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speed.svg"
    assert main([*TINY, "--plot", str(file), "--format", "csv"]) == 0
    root = ElementTree.parse(file).getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert len(list(root.iter(f"{space}circle"))) == 2 * 3  # two lengths, three runners that have times
    shown = [text.text for text in root.iter(f"{space}text")]
    assert {"flash", "torch", "jrt-prompt", "32", "64"} <= set(shown) and "fla-parallel" not in shown
    assert str(file) in capsys.readouterr().err


def test_bars_stand_after_a_table_and_beside_other_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--plot", "-"]) == 0
    assert "█" in capsys.readouterr().out
    assert main([*TINY, "--plot", "-", "--format", "json"]) == 0
    shown = capsys.readouterr()
    assert "█" in shown.err and json.loads(shown.out)


@pytest.mark.parametrize(
    ("name", "word"), [("a.pdf", ".svg or .png"), ("no/a.svg", "no folder"), ("a.png", "cairosvg")]
)
def test_a_picture_that_cannot_be_is_said_before_anything_is_timed(
    tmp_path: Path, name: str, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_show, "find_spec", lambda module: None)
    monkeypatch.setattr(setting, "measure", None)
    assert main([*TINY, "--plot", str(tmp_path / name)]) == 2
    shown = capsys.readouterr()
    assert word in shown.err and shown.err.count("\n") == 1


def test_png_is_made_of_the_svg_where_cairosvg_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def svg2png(bytestring: bytes, write_to: str, scale: float) -> None:
        Path(write_to).write_bytes(b"PNG" + bytestring[:4])

    monkeypatch.setattr(bench_show, "find_spec", lambda module: module)
    monkeypatch.setattr(bench_show, "import_module", lambda module: SimpleNamespace(svg2png=svg2png))
    assert main([*TINY, "--plot", str(tmp_path / "speed.png"), "--quiet"]) == 0
    assert (tmp_path / "speed.png").read_bytes() == b"PNG<svg"


MODEL = ["--model", "tiny-mamba", "--backend", "torch", "--device", "cpu", "--threads", "1", "--repeat", "2"]


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "model_type": "mamba",
        "vocab_size": 96,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 4,
    }
    monkeypatch.setitem(SHAPES, "tiny-mamba", config)


def test_a_model_is_read_and_speaks(tiny_model: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "prefill", *MODEL, "--length", "64", "--peer", "none", "-f", "json", "-q"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert [row["runner"] for row in read] == ["torch", "jrt-prompt"]
    assert all(row["weights"] == "random" and row["first_token_ms"] > 0 for row in read)
    assert (
        main(["bench", "decode", *MODEL, "--batch", "1,2", "--length", "8", "-n", "2", "--peer", "none"]) == 0
    )
    shown = capsys.readouterr().out
    assert "over one row" in shown and "ms a token" in shown and "random weights" in shown


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["prefill", *MODEL, "--op", "gla"], "--op is for kernels"),
        (["prefill", *MODEL, "--paper"], "--paper is for kernels"),
        (["prefill", *MODEL, "--peer", "flash"], "--peer flash"),
        (["prefill", *MODEL, "--backend", "all"], "--backend all"),
        (["prefill", *MODEL, "--gguf", "missing.gguf"], "missing.gguf"),
        (["prefill", "--gguf", "missing.gguf"], "--gguf is for --model"),
        (["prefill", "--dtype", "int8"], "int8"),
        (["decode", *MODEL, "--new-tokens", "0"], "--new-tokens"),
    ],
)
def test_wrong_arguments_of_models(
    tiny_model: None, arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    shown = capsys.readouterr()
    assert word in shown.err and shown.err.count("\n") == 1 and shown.out == ""


@pytest.mark.parametrize("command", [[], ["prefill"], ["decode"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *command, "--help"]) == 0
    assert (command or ["prefill"])[0] in capsys.readouterr().out
