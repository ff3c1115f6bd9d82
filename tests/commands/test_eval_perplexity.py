"""`jrt eval perplexity`: what it reads, what it writes where, and what it says about wrong arguments."""

from __future__ import annotations

import csv
import io
import json
import random
import sys
from pathlib import Path

import pytest

from jrtcli.cli import main

WORDS = ["lamp", "red", "tower", "oil", "boats", "rocks", "fog", "keeper"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    draw = random.Random(0)
    path = tmp_path / "text.txt"
    path.write_text(" ".join(draw.choice(WORDS) for _ in range(150)))
    return path


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["eval", "perplexity", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_table_csv_and_json_agree(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-m", "tiny-causal", "--length", 100, "--skip", 20]
    code, out, err = _run(capsys, text, *options, "--json", "-o", tmp_path / "out")
    found = json.loads(out)
    assert code == 0
    assert found["models"]["tiny-causal"]["scored_tokens"] == found["rows"][0]["tokens"]
    code, out, _ = _run(capsys, text, *options, "-f", "csv", "-q")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and out == (tmp_path / "out" / "perplexity.csv").read_text()
    assert [float(row["nll"]) for row in rows] == [row["nll"] for row in found["rows"]]
    code, out, err = _run(capsys, text, *options)
    assert code == 0 and f"{found['rows'][0]['perplexity']:,.2f}" in out
    assert "every bigram seen before" in err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "perplexity.csv", "perplexity.json", "perplexity.svg",
    }  # fmt: skip


def test_a_reference_makes_common_bigrams_no_hits(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = _run(capsys, text, "-m", "tiny-causal", "--json")
    without = {row["slice"]: row["tokens"] for row in json.loads(out)["rows"]}
    _, out, _ = _run(capsys, text, "-m", "tiny-causal", "--json", "--reference", text, "--far", 10)
    found = {row["slice"]: row["tokens"] for row in json.loads(out)["rows"]}
    assert without["ar hits"] > 0
    assert "ar hits" not in found and found["frequency"] > 0


def test_stdin_is_read_once_for_two_models(
    text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stdin:
        buffer = io.BytesIO(text.read_bytes())

    monkeypatch.setattr(sys, "stdin", Stdin())
    code, out, err = _run(capsys, "-", "-m", "tiny-causal", "-m", "tiny", "--json")
    assert code == 0, err
    assert set(json.loads(out)["models"]) == {"tiny-causal", "tiny"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.txt"], "no such text file"),
        (["TEXT", "--rare", "3"], "--reference"),
        (["TEXT", "-f", "yaml"], "--format"),
        (["TEXT", "--length", "10", "--skip", "10"], "nothing is left"),
        (["TEXT", "-m", "tiny-causal", "--skip", "100000"], "more than 100,000 tokens"),
        (["TEXT", "-o", "TEXT"], "no folder"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], said: str, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = _run(capsys, *(str(text) if a == "TEXT" else a for a in arguments))
    assert code == 2 and out == ""
    assert said in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("pieces", [0, 2])
def test_interrupted_what_was_scored_is_shown_and_kept(
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    pieces: int,
) -> None:
    from jrtcli import perplexity

    whole = perplexity.log_probabilities
    left = [pieces]

    def cut(*arguments: object, **options: object) -> object:
        for piece in whole(*arguments, **options):  # type: ignore[arg-type]
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            yield piece

    monkeypatch.setattr(perplexity, "log_probabilities", cut)
    models = ["-m", "tiny-causal", "-m", "tiny", "--length", 50]
    code, out, err = _run(capsys, text, *models, "-o", tmp_path / "out", "-f", "csv")
    assert code == 130
    if not pieces:
        assert out == "" and "interrupted: nothing was scored yet" in err and not (tmp_path / "out").exists()
        return
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["model"] for row in rows} == {"tiny-causal"} and rows[0]["tokens"] == "49"
    assert "the 49 tokens scored so far" in err and "1 of 2 models not begun" in err
    kept = json.loads((tmp_path / "out" / "perplexity.json").read_text())
    assert kept["models"]["tiny-causal"]["interrupted"] is True
    assert kept["models"]["tiny-causal"]["tokens"] == 50
