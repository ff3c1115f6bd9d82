"""`jrt batch`: rows in, rows out, exit codes, what is refused, and what the user sees."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import zstandard

from jrtcli.batch import Answerer
from jrtcli.cli import main
from jrtcli.commands.batch_summary import errors_report, summary_rows
from jrtcli.tally import Tally


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"command_{name.replace('/', '_')}", Path(__file__).parent.parent / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("train/tiny_models")
ROWS = [
    {"id": n, "context": tiny.WORDS[n : 20 + n], "question": "who", "answers": ["the lamp"], "n": n}
    for n in range(6)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("batch"), "mamba")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def batch(folder: Path, source: Path) -> Callable[..., int]:
    def run(*arguments: Any, source: Any = source) -> int:
        few = ["--max-new-tokens", "2", "--model", str(folder)]
        return main(["batch", str(source), *few, *(str(a) for a in arguments)])

    return run


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_on_stdout_and_the_rest_on_stderr(
    batch: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch() == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert sorted(row["id"] for row in rows) == list(range(6)) and rows[0]["n"] == rows[0]["id"]
    assert "rows        6: 6 answered, 0 failed" in captured.err
    assert "recall      contains" in captured.err and "standard error of 6 rows" in captured.err
    assert "rows/s" in captured.err and "tokens/s" in captured.err and "\x1b" not in captured.err
    assert batch("-q") == 0
    assert capsys.readouterr().err == ""


def test_the_same_command_goes_on(
    batch: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]) + "broken\n")
    assert batch("-o", out) == 3
    said = capsys.readouterr()
    assert said.out == "" and "rows        4: 3 answered, 1 failed" in said.err
    assert f"1 row failed (bad_json), {source}:4: Expecting value at character 1" in said.err
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert batch("-o", out, "--batch-size", "3") == 0
    said = capsys.readouterr()
    assert "3 rows are answered already; 1 that failed are tried again" in said.err
    assert "rows        6, 3 of them before: 6 answered, 0 failed" in said.err
    assert [row["id"] for row in read(out)[:3]] == [0, 1, 2] and len(read(out)) == 6
    manifest = json.loads((tmp_path / "out.jsonl.run.json").read_text())
    assert manifest["rows"] == 6 and manifest["run"]["max_new_tokens"] == 2
    before = out.read_bytes()
    assert batch("-o", out) == 0
    assert out.read_bytes() == before and "6 of them before" in capsys.readouterr().err


def test_another_configuration_is_refused(
    batch: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert batch("-o", out) == 0
    before = out.read_bytes()
    capsys.readouterr()
    assert batch("-o", out, "--template", "ccq", "--seed", "4") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "template cq there, ccq now" in said and "seed 0 there, 4 now" in said
    assert out.read_bytes() == before


@pytest.mark.parametrize("how", ["same", "symlink", "hardlink", "stdin", "stdout"])
def test_the_input_is_not_the_output(
    how: str,
    batch: Callable[..., int],
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out.jsonl" if how in ("symlink", "hardlink") else source
    before = source.read_bytes()
    if how == "symlink":
        out.symlink_to(source)
    if how == "hardlink":
        out.hardlink_to(source)
    with open(source) as stdin, open(source, "a") as stdout:
        if how == "stdin":
            monkeypatch.setattr(sys, "stdin", stdin)
            code = batch("-o", out, source="-")
        elif how == "stdout":
            monkeypatch.setattr(sys, "stdout", stdout)
            code = batch()
        else:
            code = batch("-o", out)
    assert code == 2 and source.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{dir}/missing.jsonl"], 1, "missing.jsonl: cannot be read: No such file"),
        (["{dir}"], 1, "cannot be read"),
        (["{in}", "-o", "{dir}"], 2, "is a folder: name a file in it"),
        (["{in}", "-o", "{dir}/no/out.jsonl"], 1, "there is no folder"),
        (["{in}", "-o", ""], 2, "the output has no name"),
        (["{in}", "--batch-size", "0"], 2, "give auto, or a number from 1"),
        (["{in}", "--batch-size", "many"], 2, "give auto, or a number from 1"),
        (["{in}", "--template", "nonsense"], 2, "no template"),
        (["{in}", "--fill", "nonsense"], 2, "no --fill 'nonsense'"),
        (["{in}", "--model", "no/such/folder"], 1, "there is no folder no/such/folder"),
        (["{in}", "--context-field", "question"], 2, "the same name"),
        (["{in}", "--reads", "99"], 2, "--reads 99: give a whole number"),
        (["{in}", "-o", "{in2}"], 2, "line 1 was not written by jrt batch"),
        ([], 2, "Missing argument"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    code: int,
    words: str,
    folder: Path,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "in2.jsonl"
    other.write_bytes(source.read_bytes())
    places = {"dir": tmp_path, "in": source, "in2": other}
    given = [argument.format(**places) for argument in arguments]
    model = [] if "--model" in given else ["--model", str(folder)]
    assert main(["batch", *given, *model]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("jrt: ") and captured.err.count("\n") == 1
    assert words in captured.err
    assert other.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_in_and_out(suffix: str, batch: Callable[..., int], source: Path, tmp_path: Path) -> None:
    make = gzip.compress if suffix == ".gz" else zstandard.compress
    packed = tmp_path / f"in.jsonl{suffix}"
    packed.write_bytes(make(source.read_bytes()))
    out = tmp_path / f"out.jsonl{suffix}"
    assert batch("-o", out, source=packed) == 0
    expand = gzip.decompress if suffix == ".gz" else zstandard.ZstdDecompressor().decompressobj().decompress
    rows = [json.loads(line) for line in expand(out.read_bytes()).splitlines()]
    assert sorted(row["id"] for row in rows) == list(range(6))


def test_stdin(
    batch: Callable[..., int],
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "doc.txt").write_text("The lamp is red.")
    monkeypatch.chdir(tmp_path)
    raw = b'{"id": "d", "doc": "doc.txt", "question": "q"}\n\xff\n' + source.read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert batch(source="-") == 3
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (bad,) = [row for row in rows if "error" in row]
    assert len(rows) == 8 and (bad["error"]["file"], bad["error"]["line"]) == ("stdin", 2)


@pytest.mark.parametrize("to_file", [True, False])
def test_ordered(
    to_file: bool, batch: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [{**row, "context": tiny.WORDS[: 150 - 20 * n]} for n, row in enumerate(ROWS)]
    made = random.Random(3).sample(made, 6)
    source.write_text("bad\n" + "".join(json.dumps(row) + "\n" for row in made) + "[]\n")
    out = tmp_path / "out.jsonl"
    assert batch("--ordered", "-b", "2", *(["-o", out] if to_file else [])) == 3
    rows = read(out) if to_file else [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in rows] == [None, *(row["id"] for row in made), None]


@pytest.mark.parametrize("what", ["line", "document"])
def test_strict_stops_at_the_first(
    what: str, batch: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = "broken" if what == "line" else json.dumps({"id": "x", "doc": "missing.txt", "question": "q"})
    lines = [json.dumps(row) for row in ROWS]
    source.write_text("\n".join([*lines[:2], bad, *lines[2:], "broken too"]))
    out = tmp_path / "out.jsonl"
    assert batch("--strict", "-o", out) == 3
    rows = read(out)
    if what == "line":
        # Nothing behind it is begun, and what is before it is answered.
        assert sorted(-1 if row["id"] is None else row["id"] for row in rows) == [-1, 0, 1]
    assert sum("error" in row for row in rows) >= 1
    assert "stopped at the first row that failed" in capsys.readouterr().err
    source.write_text("\n".join(lines))
    assert batch("--strict", "-o", out) == 0
    assert sorted(row["id"] for row in read(out)) == list(range(6))


def test_fields_of_other_names(
    batch: Callable[..., int], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_text(json.dumps({"qid": 7, "passage": "the lamp", "q": "who", "gold": "lamp"}))
    names = ["--id-field", "qid", "--context-field", "passage", "--question-field", "q"]
    assert batch(*names, "--answers-field", "gold") == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["id"], row["qid"], row["q"], row["gold"]) == (7, 7, "who", "lamp") and "passage" not in row
    assert set(row["scores"]) == {"contains", "exact_match", "f1"}


def test_an_openai_batch(batch: Callable[..., int], source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = {"messages": [{"role": "system", "content": "the lamp"}, {"role": "user", "content": "who"}]}
    row = {
        "custom_id": "r-1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {**body, "max_tokens": 3},
    }
    source.write_text(json.dumps(row))
    assert batch() == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert (said["id"], said["custom_id"], said["question"]) == ("r-1", "r-1", "who") and "body" not in said
    assert "1 row asked for max_tokens" in captured.err


def interrupting(monkeypatch: pytest.MonkeyPatch, *after: int) -> None:
    """Ctrl-C as the `after`-th rows come out of the model."""
    answer = Answerer.answer

    def pressed(self: Answerer, rows: Any) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(answer(self, rows), start=1):
            if number in after:
                os.kill(os.getpid(), signal.SIGINT)
            yield row

    monkeypatch.setattr(Answerer, "answer", pressed)


@pytest.mark.parametrize("to_file", [True, False])
def test_ctrl_c_finishes_what_is_in_flight(
    to_file: bool,
    batch: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.jsonl"
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        interrupting(patched, 1)
        assert batch("-b", "2", *(["-o", out] if to_file else ["--ordered"])) == 130
    captured = capsys.readouterr()
    rows = read(out) if to_file else [json.loads(line) for line in captured.out.splitlines()]
    assert 1 <= len(rows) < 6
    assert "finishing the rows in flight; once more to stop now" in captured.err
    assert ("the same command goes on with" in captured.err) == to_file
    assert signal.getsignal(signal.SIGINT) is before
    if to_file:
        assert "rows" not in json.loads((tmp_path / "out.jsonl.run.json").read_text())
        assert batch("-o", out) == 0
        assert sorted(row["id"] for row in read(out)) == list(range(6))


def test_ctrl_c_twice_stops_now(
    batch: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.jsonl.gz"
    with monkeypatch.context() as patched:
        interrupting(patched, 2, 3)
        assert batch("-b", "4", "-o", out) == 130
    with gzip.open(out) as file:
        assert len(file.read().splitlines()) == 2
    assert batch("-o", out) == 0
    with gzip.open(out) as file:
        assert sorted(json.loads(line)["id"] for line in file) == list(range(6))


def test_a_pipe_that_pauses_is_answered_meanwhile_and_can_be_interrupted(folder: Path) -> None:
    command = [sys.executable, "-m", "jrtcli", "batch", "-", "-m", str(folder), "--max-new-tokens", "2"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env={**os.environ, "OMP_NUM_THREADS": "1"}) as program:
        assert program.stdin and program.stdout and program.stderr
        for number in range(3):
            row = {"id": number, "context": "the lamp", "question": "who"}
            program.stdin.write(json.dumps(row).encode() + b"\n")
            program.stdin.flush()
            assert json.loads(program.stdout.readline())["id"] == number
        program.send_signal(signal.SIGINT)
        rest, said = program.stdout.read(), program.stderr.read()
        assert program.wait(timeout=60) == 130
    assert rest == b"" and b"rows        3: 3 answered" in said and b"Traceback" not in said


def test_a_closed_pipe_ends_it_quietly(folder: Path, source: Path) -> None:
    program = shlex.join([sys.executable, "-m", "jrtcli", "batch", str(source), "-m", str(folder)])
    command = f"{program} -q --max-new-tokens 2 | head -1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode in (0, 141) and done.stderr == "" and len(done.stdout.splitlines()) == 1


def test_thousands_of_broken_lines_leave_no_traceback(
    batch: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(5)
    good = json.dumps({**ROWS[0], "weight": 0.5, "tags": ["a", None]}).encode()
    pieces = [
        b'"',
        b"{",
        b"]",
        b"NaN",
        b"1e999",
        b"\\ud800",
        b"\0",
        b"\xff",
        b"\r",
        b"\xef\xbb\xbf",
        b"\x1b[2J",
    ]
    lines = []
    for number in range(3000):
        line = bytearray(good.replace(b'"id": 0', b'"id": %d' % number))
        for _ in range(draw.choice((1, 2, 3, 8))):
            at = draw.randrange(len(line))
            if draw.random() < 0.6:
                line[at:at] = draw.choice(pieces)
            else:
                del line[at : at + draw.randrange(1, 9)]
        lines.append(bytes(line).replace(b"\n", b""))
    source.write_bytes(b"\n".join(lines))
    out = tmp_path / "out.jsonl"
    assert batch("-o", out, "--ordered", "-b", "32") == 3
    said = capsys.readouterr().err
    assert "Traceback" not in said and "\x1b" not in said and "bad_json" in said
    rows = read(out)
    assert len(rows) == 3000
    failed = {row["error"]["line"]: row for row in rows if "error" in row}
    assert 2000 < len(failed) < 3000
    assert not {row["error"]["kind"] for row in failed.values()} & {"model", "unexpected"}
    assert all(rows[line - 1] is row for line, row in failed.items())


def test_a_summary() -> None:
    tally = Tally()
    for value in (1.0, 0.0, 1.0, 1.0):
        tally.add({"tokens": {"answer": 2}, "scores": {"contains": value}})
    tally.add({"error": {"kind": "memory", "message": "m", "file": "f", "line": 3}})
    tally.add({"error": {"kind": "memory", "message": "n", "file": "f", "line": 9}})
    assert summary_rows(tally, 4, 1000, 2.0) == [
        ("rows", "6, 2 of them before: 4 answered, 2 failed"),
        ("recall", "contains 75.0% ± 25.0% (mean ± standard error of 4 rows)"),
        ("speed", "2 rows/s · 500 tokens/s (4 rows, 1,000 tokens, 2.0 s)"),
    ]
    assert list(errors_report(tally)) == ["2 rows failed (memory), the first at f:3: m"]
