"""`jrt probe` from the command line: formats, files, resuming, and what it says to wrong arguments."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jrtcli.cli import main
from jrtcli.commands.probe_report import measured
from jrtcli.probe.claims import Claim, Estimate
from jrtcli.probe.figure import bars, svg
from jrtcli.probe.summary import Panel, Point
from jrtcli.probe.sweep import ROWS

SMALL = ["--steps", "2", "--seeds", "1", "--widths", "8", "--feature-dims", "2,4", "--jobs", "1"]
MODELS = 6  # three readings, two feature dimensions


@pytest.fixture(autouse=True)
def few_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans as shipped, but for the number of sequences that a model is tested on."""
    from dataclasses import replace

    from jrtcli.probe import plan

    monkeypatch.setattr(plan, "PLANS", {key: replace(p, tests=8) for key, p in plan.PLANS.items()})


@pytest.mark.parametrize("task", ["disjointness", "recall"])
def test_csv_is_one_row_for_each_model_and_size(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", task, *SMALL, "--format", "csv", "--quiet"]) == 0
    shown = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    sizes = {(row.get("first", ""), row.get("second", ""), row.get("pairs", "")) for row in rows}
    assert len(rows) == MODELS * len(sizes) and shown.err == ""
    assert all(0 <= float(row["accuracy"]) <= 1 and int(row["state_floats"]) > 0 for row in rows)
    assert {row["feature_dim"] for row in rows} == {"2", "4"}


def test_files_resume_and_rows_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "probe"
    command = ["probe", "disjointness", *SMALL, "-o", str(out), "--format", "json"]
    assert main(command) == 0
    shown = capsys.readouterr()
    made = json.loads(shown.out)
    assert made["models"] == MODELS and {c["verdict"] for c in made["claims"]} <= {
        "holds",
        "does not hold",
        "not decided",
    }
    assert f"{MODELS} models" in shown.err and str(out) in shown.err
    root = ElementTree.parse(out / "disjointness.svg").getroot()
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 6  # three panels, two orders
    assert json.loads((out / "claims.json").read_text())["claims"] == made["claims"]
    assert len(list(csv.DictReader((out / "rows.csv").open()))) == len(made["rows"])

    before = (out / ROWS).read_text()
    assert main(command) == 0
    shown = capsys.readouterr()
    assert f"{MODELS} done before" in shown.err and json.loads(shown.out) == made
    assert (out / ROWS).read_text() == before  # nothing was trained again

    dropped = [line for line in before.splitlines() if json.loads(line)["reading"] != "twice"]
    (out / ROWS).write_text("\n".join(dropped) + "\n")
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out)
    drop = ("core_s", "wall_s")
    assert [{k: v for k, v in row.items() if k not in drop} for row in again["rows"]] == [
        {k: v for k, v in row.items() if k not in drop} for row in made["rows"]
    ]

    assert main([*command[:3], "3", *command[4:]]) == 2
    assert "another steps" in capsys.readouterr().err


def test_the_table_stands_on_stdout_and_the_claims_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "recall", *SMALL]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].split()[0] == "reading" and len(lines) == 1 + MODELS * 5
    assert "prefix, read once" in shown.out and "32 pairs" in shown.out
    assert "of 6 models learned" in shown.err and "core-seconds" in shown.err


def test_ctrl_c_keeps_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jrtcli.probe import sweep as module

    real = module.sweep

    def interrupted(*args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        done = 0
        for event in real(*args, **kwargs):  # type: ignore[arg-type]
            yield event
            done += isinstance(event, module.Done)
            if done == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(module, "sweep", interrupted)
    command = ["probe", "disjointness", *SMALL, "-o", str(tmp_path)]
    assert main(command) == 130
    shown = capsys.readouterr()
    assert "2 of 6 models are done" in shown.err and shown.out.startswith("reading")
    assert ElementTree.parse(tmp_path / "disjointness.svg")
    monkeypatch.setattr(module, "sweep", real)
    assert main(command) == 0
    assert "2 done before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "what to probe?"),
        (["sets"], "no probe 'sets'"),
        (["recall", "--model", "tiny"], "recall is for models trained here"),
        (["--model", "tiny", "--seeds", "2", "--full"], "--full, --seeds is for models"),
        (["recall", "--format", "xml"], "no --format 'xml'"),
        (["recall", "--widths", "32,big"], "whole numbers with commas"),
        (["recall", "--widths", "33"], "no multiple of 2 heads"),
        (["recall", "--feature-dims", "0"], "at least 2"),
        (["recall", "--seeds", "0"], "--seeds"),
        (["recall", "--device", "abacus"], "no device 'abacus'"),
        (["--model", "no-such-model-anywhere"], "no-such-model-anywhere"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = main(["probe", *arguments])
    shown = capsys.readouterr()
    assert code == (1 if "no-such-model-anywhere" in arguments else 2)
    assert said in shown.err and len(shown.err.strip().splitlines()) == 1 and shown.out == ""


def test_an_output_that_is_a_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["probe", "recall", *SMALL, "-o", str(tmp_path / "file")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_checkpoint_is_asked_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--model", "tiny", "--questions", "2", "-o", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    header, *lines = shown.out.splitlines()
    assert header.split() == ["probe", "size", "order", "cq", "qcq", "cqcq"]
    assert len(lines) == 2 * 3 + 4  # three sizes of lists in both orders, four numbers of pairs
    assert "short first - short last, cq" in shown.err and "recall: cqcq - cq" in shown.err
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == (2 * 3 + 4) * 2 * 3
    for row in rows:
        assert row["right"] == (row["gold"] in row["answer"].lower())
    assert {row["reads"] for row in rows if row["template"] == "cqcq"} == {2}
    # It was trained to find the values of fields: it does better than naming any one of them.
    recalled = [row["right"] for row in rows if row["task"] == "recall"]
    assert sum(recalled) / len(recalled) > 0.3


def _panel(title: str) -> Panel:
    def line(*values: float) -> tuple[Point, ...]:
        return tuple(
            Point("causal", 32, 4, 1024 * 2**i, "short first", v, v - 0.1, v + 0.1, 2)
            for i, v in enumerate(values)
        )

    return Panel(title, (("short first", line(0.5, 0.7)), ("short <last>", line(0.2, 0.6))))


def test_the_figure_is_drawn_to_scale() -> None:
    drawn = ElementTree.fromstring(svg([_panel("a & b"), _panel("c")], "Sets", "a note"))
    space = "{http://www.w3.org/2000/svg}"
    dots = [float(d.get("cy", "")) for d in drawn.findall(f"{space}circle")][:4]
    # Accuracies 0.5 and 0.7, then 0.2 and 0.6: equal steps of accuracy are equal steps up.
    unit = (dots[0] - dots[1]) / 0.2
    assert unit > 0 and [dots[0] - d for d in dots] == pytest.approx(
        [unit * (v - 0.5) for v in (0.5, 0.7, 0.2, 0.6)]
    )
    texts = "".join(t.text or "" for t in drawn.iter(f"{space}text"))
    assert "a & b" in texts and "short <last>" in texts and "1,024" in texts


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_bars_fit_the_terminal_and_are_as_long_as_they_say(columns: int) -> None:
    lines = bars([_panel("causal")], columns).splitlines()
    assert max(len(line) for line in lines) <= max(columns, 46)
    half = next(line for line in lines if line.endswith(" 50%"))
    assert abs(half.count("█") - half.count("·")) <= 1


def test_measurements_are_in_points_with_their_models() -> None:
    estimate = Estimate(0.123, 0.05, 0.2, 6)
    assert measured(Claim("", "gap", estimate, "holds")) == "gap: +12.3 points, 95 % +5.0 to +20.0 (6 models)"
    assert "no interval" in measured(Claim("", "gap", Estimate(0.1, None, None, 2), "not decided"))
    assert "too few" in measured(Claim("", "gap", None, "not decided"))
