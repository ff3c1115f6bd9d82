"""`jrt ask --reads auto`: an unsure answer is read again, a sure one is not, and the report says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import jrtcli
from jrtcli.calibration import Calibration, Point, keep
from jrtcli.cli import main
from jrtcli.reader import Reader

TEXT = "The lamp of Dover is red.\nMaria Kowalski keeps it.\nIt was lit on March 14, 1815.\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def doc(tmp_path: Path) -> Path:
    path = tmp_path / "lamp.txt"
    path.write_text(TEXT)
    return path


def _calibrated(threshold: float) -> None:
    """Keep a threshold for the bundled model and template cq."""
    reader = Reader(jrtcli.load("tiny-causal", device="cpu"), template="cq")
    none = Point(threshold, 0.0, 0.0, 0.0)
    sha = reader.loaded.identity.weights_sha256
    keep(reader, Calibration(threshold, 2, "cq", sha, 20, none, none, none))


def _ask(doc: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    common = ["ask", "--doc", str(doc), "-m", "tiny-causal", "-t", "cq", "--device", "cpu"]
    code = main([*common, *options])
    out, err = capsys.readouterr()
    return code, out, err


def _json(doc: Path, capsys: pytest.CaptureFixture[str], *options: str) -> Any:
    code, out, _ = _ask(doc, capsys, "--json", "-q", *options)
    assert code == 0
    return json.loads(out)


@pytest.mark.parametrize(("threshold", "reads"), [(0.0, 1), (1.01, 2)])
def test_the_threshold_of_the_model_decides(
    threshold: float, reads: int, doc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _calibrated(threshold)
    said = _json(doc, capsys, "-Q", "Who keeps it?", "--reads", "auto")
    account = said["rereading"]
    if threshold == 0.0 and not account["readings"][0]["in_document"]:
        reads = 2  # nothing but its margin is beyond doubt
    assert len(account["readings"]) == said["prompt"]["reads"] == reads
    assert account["threshold"] == threshold and account["calibrated"] is True
    assert said["tokens"]["read"] == sum(one["tokens"] for one in account["readings"])
    fixed = _json(doc, capsys, "-Q", "Who keeps it?", "--reads", str(reads))
    assert said["answer"] == fixed["answer"]
    # The second reading went on: only the end of the first prompt was read beside it.
    assert said["tokens"]["read"] <= fixed["tokens"]["read"] + 8


def test_the_report_says_how_often_and_why(doc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _calibrated(1.01)
    code, out, err = _ask(doc, capsys, "-Q", "Who keeps it?", "--reads", "auto")
    assert code == 0 and len(out.splitlines()) == 1
    assert "unsure: margin" in err and "a margin of 1.01, calibrated" in err
    assert "1: " in err and "2: " in err and "twice (template cq)" in err
    code, _, err = _ask(doc, capsys, "-Q", "Who keeps it?", "--reads", "auto:3")
    assert code == 0 and "at most 3" in err and "not calibrated" in err


def test_many_questions_each_have_their_own_account(doc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _calibrated(1.01)
    rows = _json(doc, capsys, "-Q", "Who keeps it?", "-Q", "What colour?", "--reads", "auto")
    assert [len(row["rereading"]["readings"]) for row in rows] == [2, 2]
    alone = _json(doc, capsys, "-Q", "What colour?", "--reads", "auto")
    assert rows[1]["answer"] == alone["answer"]
    assert rows[1]["tokens"]["read"] < alone["tokens"]["read"]  # the document was read for both


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--reads", "auto:1"], 2, "N from 2"),
        (["--reads", "often"], 2, "--reads"),
        (["--reads", "0"], 2, "--reads"),
        (["--reads", "auto", "--compare"], 2, "--compare"),
        (["--reads", "auto", "-m", "tiny"], 1, "encoder"),
        (["--reads", "auto", "--window", "10"], 2, "--window 0"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], code: int, said: str, doc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out, err = _ask(doc, capsys, "-Q", "Who?", *options)
    assert (found, out) == (code, "")
    assert said in err and len(err.strip().splitlines()) == 1
