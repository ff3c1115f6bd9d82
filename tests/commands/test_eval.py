"""`jrt eval`: tasks and files from end to end, goes on after a kill, the paper's tables, what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jrtcli.batch import Answerer
from jrtcli.cli import main
from jrtcli.predictions import read_predictions


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"eval_{name.replace('/', '_')}", Path(__file__).parent.parent / f"{name}.py"
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
        "context": f"Lot {i}. {tiny.TEXT[:180]}",
        "question": f"{line.partition(':')[0]}:",
        "answers": [line.partition(": ")[2]],
    }
    for i, line in enumerate(LINES)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "based-1b", "based")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: Any, model: Any = folder) -> tuple[int, str, str]:
        chosen = ["--model", str(model)] if model is not None else []
        code = main(["eval", *map(str, arguments), *chosen])
        return code, *capsys.readouterr()

    return run


def read_json(folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return made


def test_a_file_once_and_twice(
    evaluate: Callable[..., tuple[int, str, str]], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, stdout, stderr = evaluate(data, "-o", out)
    assert code == 0
    lines = stdout.splitlines()
    assert lines[0].split()[:6] == ["task", "model", "reading", "length", "rows", "contains"]
    assert [line.split()[:5] for line in lines[1:3]] == [
        ["mine", "based-1b", "cq", "whole", "5"],
        ["mine", "based-1b", "cqcq", "whole", "5"],
    ]
    assert "difference" in lines[4]
    assert "report.html" in stderr
    made = read_json(out)
    assert [cell["order"] for cell in made["cells"]] == ["cq", "cqcq"]
    assert all(cell["rows"] == 5 and cell["state_bytes"] > 0 for cell in made["cells"])
    assert len((out / "results.csv").read_text().splitlines()) == 3
    assert "<svg" in (out / "report.html").read_text()
    samples = sorted((out / "samples").glob("*.jsonl"))
    assert len(samples) == 2
    # In the order of the file, with what is needed to look at them.
    for path in samples:
        rows = list(read_predictions(path))
        assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
        assert {"answer", "answers", "question", "position", "scores", "tokens"} <= rows[0].keys()


@pytest.mark.parametrize("task", ["fda", "swde", "squad", "nq", "triviaqa", "drop"])
def test_every_task_takes_qa_rows(
    evaluate: Callable[..., tuple[int, str, str]], data: Path, task: str
) -> None:
    code, stdout, _ = evaluate(task, "--data", data, "--limit", "2", "--json")
    made = json.loads(stdout)
    assert code == 0
    assert [(c["task"], c["order"], c["rows"], c["length_tokens"]) for c in made["cells"]] == [
        (task, "once", 2, 1000),
        (task, "twice", 2, 1000),
    ]
    once, twice = (cell["prompt_tokens"] for cell in made["cells"])
    assert 1.8 < twice / once < 2.3
    (difference,) = made["differences"]
    assert (difference["first"], difference["second"], difference["count"]) == ("once", "twice", 2)


def test_a_grid(evaluate: Callable[..., tuple[int, str, str]], data: Path, folder: Path) -> None:
    code, stdout, _ = evaluate(
        data, "--template", "cq,qcq", "--reads", "1,2", "--shots", "0,1", "--length", "100,150",
        "--limit", "2", "--json",
    )  # fmt: skip
    made = json.loads(stdout)
    assert code == 0 and len(made["cells"]) == 16
    tokens = {
        (c["order"], c["reads"], c["shots"], c["length_tokens"]): c["prompt_tokens"] for c in made["cells"]
    }
    assert (
        tokens["cq", 1, 0, 100] < tokens["cq", 1, 0, 150] < tokens["cq", 1, 1, 150] < tokens["cq", 2, 1, 150]
    )


def test_a_killed_run_goes_on(
    evaluate: Callable[..., tuple[int, str, str]], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    stop_after = [7]
    whole = Answerer.answer

    def counted(self: Answerer, rows: Any) -> Any:
        for row in whole(self, rows):
            if len(asked) == stop_after[0]:
                raise KeyboardInterrupt
            asked.append(row["id"])
            yield row

    monkeypatch.setattr(Answerer, "answer", counted)
    out, uncut = tmp_path / "out", tmp_path / "uncut"
    assert evaluate(data, "-o", out)[0] == 130
    assert len(asked) == 7
    stop_after[0] = -1
    assert evaluate(data, "-o", out)[0] == 0 and len(asked) == 10
    assert evaluate(data, "-o", out)[0] == 0 and len(asked) == 10  # nothing is asked again
    assert evaluate(data, "-o", uncut)[0] == 0 and len(asked) == 20

    def scores(folder: Path) -> Any:
        return [(cell["scores"], cell["errors"]) for cell in read_json(folder)["cells"]]

    assert scores(out) == scores(uncut)


def test_more_rows_are_added_and_fewer_are_counted(
    evaluate: Callable[..., tuple[int, str, str]], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for limit in (2, 5, 3):
        assert evaluate(data, "-o", out, "--limit", limit)[0] == 0
        assert [cell["rows"] for cell in read_json(out)["cells"]] == [limit, limit]


def test_without_the_oracle(evaluate: Callable[..., tuple[int, str, str]], data: Path) -> None:
    _, stdout, stderr = evaluate("fda", "--data", data, "--no-window", "--limit", "1")
    assert stdout.splitlines()[1].split()[3] == "whole" and "oracle" not in stderr
    _, _, stderr = evaluate("fda", "--data", data, "--limit", "1")
    assert "oracle window" in stderr
    _, _, stderr = evaluate("fda", "--data", data, "--no-window", "--length", "100", "--limit", "1")
    assert "the cut knows no answer" in stderr


@pytest.mark.parametrize(
    "table,row,count", [("table1", "based-1b", 12), ("table2", "based-1b", 9), ("table14", "mamba-130m", 9)]
)
def test_a_table_of_the_paper_with_local_rows(
    evaluate: Callable[..., tuple[int, str, str]],
    folder: Path,
    data: Path,
    tmp_path: Path,
    table: str,
    row: str,
    count: int,
) -> None:
    out = tmp_path / "out"
    code, stdout, stderr = evaluate(
        "--paper", table, "--limit", "5", "--data", data, "-o", out, model=f"{row}={folder}"
    )
    assert code == 0
    paper = read_json(out)["paper"]
    assert read_json(out)["scoring"] == "v0"
    assert len(paper) == count and {line["model"] for line in paper} == {row}
    assert all(0 <= line["percent"] <= 100 for line in paper)
    header, *lines = stdout.splitlines()[: count + 1]
    assert header.split() == ["model", "task", "reading", "length", "rows", "paper", "here", "difference"]
    for line, printed in zip(lines, paper, strict=True):
        *_, theirs, ours, difference = line.split()
        assert float(theirs) == printed["paper_percent"]
        assert float(difference) == pytest.approx(float(ours) - float(theirs), abs=0.051)
    assert re.search(rf"{count} cells to run, about \d+ ", stderr)
    assert "Beside the paper" in (out / "report.html").read_text()


def test_the_three_fills_of_table_4(
    evaluate: Callable[..., tuple[int, str, str]], data: Path, tmp_path: Path
) -> None:
    model = tiny.save(tmp_path / "jrt-360m-30b", "jrt_rnn", enc_length=300)
    code, stdout, _ = evaluate("--paper", "table4", "--limit", "1", "--data", data, "--json", model=model)
    cells = json.loads(stdout)["cells"]
    assert code == 0 and [cell["fill"] for cell in cells[:3]] == ["pad", "twice", "iterate"]
    # Filled to the encoder's length, and not.
    assert [cell["tokens_read"] for cell in cells[:2]] == [300, 300]
    assert cells[2]["tokens_read"] < 300


def test_a_part_of_a_table(evaluate: Callable[..., tuple[int, str, str]], data: Path) -> None:
    code, stdout, stderr = evaluate("--paper", "table1", "--limit", "1", "--data", f"fda={data}")
    assert code == 0
    assert len(re.findall(r"its rows are not here.*--data \w+=FILE", stderr)) == 5
    lines = stdout.splitlines()[1:13]
    assert sum("–" in line for line in lines) == 10


@pytest.mark.parametrize(
    "arguments,said",
    [
        ([], "no task: give one of fda, swde"),
        (["fdb"], "no task 'fdb'"),
        (["fda"], "hazyresearch/based-fda on the Hugging Face hub"),
        (["fda", "--data", "nowhere"], "--data nowhere: there is no such file or folder"),
        (["DATA", "--template", "cqq"], "no order 'cqq'"),
        (["DATA", "--reads", "x"], "--reads x: give whole numbers from 1"),
        (["DATA", "--length", "10"], "--length 10: give whole numbers from 100"),
        (["DATA", "--scoring", "v2"], "no --scoring 'v2'"),
        (["DATA", "--fill", "thrice"], "no --fill 'thrice'"),
        (["DATA", "--shots", "9", "--limit", "3"], "--shots 9 needs as many rows"),
        (["DATA", "-o", "DATA"], "is a file: name a folder"),
        (["--paper", "table3"], "no --paper 'table3'"),
        (["fda", "--paper", "table1"], "--paper has its own tasks"),
        (["--paper", "table1"], "nothing of it can be run here"),
    ],
)
def test_what_is_refused(
    evaluate: Callable[..., tuple[int, str, str]], data: Path, arguments: list[str], said: str
) -> None:
    code, stdout, stderr = evaluate(*[str(data) if each == "DATA" else each for each in arguments])
    assert code in (1, 2) and stdout == ""
    assert said in stderr.splitlines()[-1]
    assert stderr.splitlines()[-1].startswith("jrt: ")


def test_calibrate_keeps_a_threshold(
    evaluate: Callable[..., tuple[int, str, str]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    many = [{**row, "id": f"{i}{row['id']}"} for i in range(4) for row in ROWS]
    data.write_text("".join(json.dumps(row) + "\n" for row in many))
    out = tmp_path / "curves"
    code, stdout, stderr = evaluate(data, "--calibrate", "--template", "cq", "--json", "-o", out)
    (found,) = json.loads(stdout)
    assert (found["curve"][0]["threshold"], found["curve"][-1]["threshold"]) == (-1, 1.01)
    header, *lines = (out / "reread-based-1b-cq.csv").read_text().splitlines()
    assert header == "threshold,recall,tokens_per_row,read_again" and len(lines) == len(found["curve"])
    assert "always 2 times" in (out / "reread-based-1b-cq.svg").read_text()
    assert code == 0 and found["rows"] == 20 and found["template"] == "cq"
    assert found["once"]["tokens"] <= found["auto"]["tokens"] <= found["most"]["tokens"]
    (kept,) = (tmp_path / "cache" / "jrt" / "thresholds").glob("*.json")
    assert json.loads(kept.read_text())["threshold"] == found["threshold"] and str(kept) in stderr
    assert "at least 20" in evaluate(data, "--calibrate", "--limit", "3")[2]
    assert "takes one --template" in evaluate(data, "--calibrate", "--template", "cq,qcq")[2]


def test_the_example_makes_rows_that_run(
    evaluate: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    script = Path(__file__).parents[2] / "examples" / "eval_rows.py"
    subprocess.run([sys.executable, str(script), str(tmp_path), "--rows", "3"], check=True, timeout=60)
    rows = [json.loads(line) for line in (tmp_path / "fda.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(row["text"].count(row["value"]) == 1 for row in rows)
    code, stdout, _ = evaluate(
        "fda", tmp_path / "questions.jsonl", "--data", tmp_path, "--limit", "2", "--json"
    )
    made = json.loads(stdout)["cells"]
    assert code == 0
    assert [(cell["task"], cell["rows"]) for cell in made] == [("fda", 2)] * 2 + [("questions", 2)] * 2


def test_what_the_cut_leaves_out_is_said(evaluate: Callable[..., tuple[int, str, str]], data: Path) -> None:
    rows = [*ROWS[:2], {**ROWS[2], "answers": ["5"]}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, stdout, stderr = evaluate("squad", "--data", data, "--template", "once")
    assert code == 0 and stdout.splitlines()[1].split()[4] == "2"
    assert "1 row is left out: no gold, or one of a single character" in stderr
    _, stdout, stderr = evaluate("squad", "--data", data, "--template", "once", "--no-window")
    assert stdout.splitlines()[1].split()[4] == "3" and "left out" not in stderr
