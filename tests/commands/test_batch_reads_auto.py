"""`jrt batch --reads auto`: rows read again where they are unsure, as `jrt ask --reads auto` answers them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jrtcli.cli import main

TEXT = "The lamp of Dover is red.\nMaria Kowalski keeps it.\nIt was lit on March 14, 1815.\n"
QUESTIONS = ["Who keeps it?", "What colour is the lamp?", "When was it lit?"]
COMMON = ["-m", "tiny-causal", "-t", "cq", "--device", "cpu", "--reads", "auto"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _rows(tmp_path: Path) -> list[dict[str, Any]]:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"id": str(i), "context": TEXT, "question": q, "readings": "mine"} for i, q in enumerate(QUESTIONS)
    ]
    rows += [
        {"id": "3", "context": "The fog is grey.", "question": "What colour?"},
        {"id": "4", "question": "?"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["batch", str(source), "-o", str(output), "-q", *COMMON]) == 3
    return sorted(map(json.loads, output.read_text().splitlines()), key=lambda row: str(row["id"]))


def test_rows_are_answered_as_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows(tmp_path)
    (tmp_path / "doc.txt").write_text(TEXT)
    for row, question in zip(rows, QUESTIONS, strict=False):
        capsys.readouterr()
        assert main(["ask", "-d", str(tmp_path / "doc.txt"), "-Q", question, "--json", "-q", *COMMON]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert row["answer"] == alone["answer"]
        assert [one["unsure"] for one in row["readings"]] == [
            one["unsure"] for one in alone["rereading"]["readings"]
        ]
        # The document was read once for the three of them.
        assert row["tokens"]["read"] < alone["tokens"]["read"]
        assert row["input"] == {"readings": "mine"}
    assert rows[3]["readings"][0]["reads"] == 1
    assert rows[4]["error"]["kind"] == "missing_field"


def test_the_run_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows(tmp_path)
    output = tmp_path / "out.jsonl"
    kept = output.read_text().splitlines(keepends=True)
    output.write_text("".join(kept[:2]))
    again = _rows(tmp_path)
    for one, other in zip(rows, again, strict=True):
        assert one.get("answer") == other.get("answer")
        # Rows that are not read beside the same others differ in the last digits.
        for reading, repeated in zip(one.get("readings", []), other.get("readings", []), strict=True):
            assert reading | {"margin": 0} == repeated | {"margin": 0}
            assert reading["margin"] == pytest.approx(repeated["margin"], abs=1e-5)


def test_a_model_with_an_encoder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"context": TEXT, "question": "Who?"}) + "\n")
    code = main(["batch", str(source), "-o", str(tmp_path / "o.jsonl"), "-m", "tiny", "--reads", "auto"])
    assert code == 1 and "encoder" in capsys.readouterr().err
