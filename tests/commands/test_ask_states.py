"""`jrt ask` of what was read before: states, the cache, and many questions from one reading."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jrtcli.batching import Batch
from jrtcli.cli import main
from jrtcli.errors import JrtError


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent.parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_checkpoint")
QUESTION = "Who is the contact person?"
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("ask") / "model")


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "doc.txt"
    path.write_text(tiny.TEXT)
    return path


@pytest.fixture
def ask(folder: Path, document: Path) -> Callable[..., int]:
    def run(*arguments: str, question: str | None = QUESTION) -> int:
        asked = [] if question is None else ["--question", question]
        return main(["ask", "--doc", str(document), *asked, "--model", str(folder), *arguments])

    return run


LONG = "\n".join(f"Field {i}: value {i * 37 % 101} of the device." for i in range(60)) + "\n" + tiny.TEXT


@pytest.fixture
def saved(folder: Path, document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "doc.state"
    assert main(["read", str(document), "-o", str(path), "-m", str(folder), "-t", "ccq"]) == 0
    capsys.readouterr()
    return path


def test_from_a_state_the_answer_is_the_same_without_the_document(
    ask: Callable[..., int], saved: Path, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("--template", "ccq", "--json", "--max-new-tokens", "6") == 0
    fresh = json.loads(capsys.readouterr().out)
    document.unlink()
    # The model and the template are the state's own.
    arguments = ["ask", "--state", str(saved), "-Q", QUESTION, "--max-new-tokens", "6"]
    assert main([*arguments, "--json"]) == 0
    reused = json.loads(capsys.readouterr().out)
    for name in ("answer", "prompt", "model", "document", "evidence", "confidence"):
        assert fresh[name] == reused[name], name
    assert fresh["tokens"]["ids"] == reused["tokens"]["ids"]
    tokens = reused["state"]["reused_tokens"]
    assert fresh["state"] is None
    assert reused["state"] == {
        "reused_tokens": tokens,
        "tokens": fresh["tokens"]["read"],
        "file": str(saved),
    }
    assert main(arguments) == 0
    err = capsys.readouterr().err
    assert f"state       {tokens:,} of {fresh['tokens']['read']:,} tokens reused ({saved})\n" in err


def test_a_state_grounds_its_answer_in_the_document_it_was_read_from(
    saved: Path, document: Path, says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says("Maria Kowalski")
    assert main(["ask", "--state", str(saved), "-Q", QUESTION]) == 0
    captured = capsys.readouterr()
    assert captured.out == "Maria Kowalski\n"
    assert f"{document}:4  Contact person: [Maria Kowalski]" in captured.err


def test_a_state_of_something_else_is_refused(
    saved: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Something else.")
    for arguments, words in (
        (["--doc", str(other)], "doc.txt"),
        (["--template", "cqcq"], "template ccq in the state, cqcq here"),
        (["--reads", "3"], "readings 2 in the state, 3 here"),
        (["--window", "9"], "window 0 in the state, 9 here"),
        (["--model", "tiny-causal"], "checkpoint model in the state, tiny-causal here"),
        (["--model", str(folder), "--dtype", "bfloat16"], "dtype float32 in the state, bfloat16 here"),
    ):
        assert main(["ask", "--state", str(saved), "-Q", "Who?", *arguments]) == 1
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and words in captured.err


def test_the_second_asking_does_not_read_the_document_again(
    ask: Callable[..., int], document: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document.write_text(LONG)
    arguments = ["--template", "ccq", "--max-new-tokens", "5"]
    assert ask(*arguments, "--no-cache") == 0
    without = capsys.readouterr()
    assert "state       " not in without.err and not cache.exists()
    assert ask(*arguments) == 0
    first = capsys.readouterr()
    assert "kept in the cache for further questions" in first.err
    assert ask(*arguments) == 0
    second = capsys.readouterr()
    (path,) = cache.iterdir()
    assert f"tokens reused (cache, {path.name[:8]})" in second.err
    assert without.out == first.out == second.out != "\n"
    os.truncate(path, 99)
    assert ask(*arguments) == 0
    third = capsys.readouterr()
    assert third.out == first.out and "not used and will be replaced" in third.err
    assert path.stat().st_size > 99


def test_the_cache_is_no_reason_to_fail(
    ask: Callable[..., int],
    document: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document.write_text(LONG)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert ask("--template", "cqcq") == 0
    assert capsys.readouterr().err.count("warning: states are not kept") == 1
    monkeypatch.setenv("JRT_STATE_QUOTA", "0")
    assert ask("--template", "cqcq") == 0
    assert "states are not kept" not in capsys.readouterr().err
    monkeypatch.setenv("JRT_STATE_QUOTA", "much")
    assert ask("--template", "cqcq") == 2
    assert "JRT_STATE_QUOTA" in capsys.readouterr().err


def test_many_questions_have_the_answers_of_each_alone(
    ask: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [f"What is field {i}?" for i in range(7)]
    (tmp_path / "questions.txt").write_text("\ufeff" + "\r\n".join(questions) + "\r\n\r\n", encoding="utf-8")
    for template in ("ccq", "qcq"):
        arguments = ["--template", template, "--max-new-tokens", "5", "-q"]
        alone = []
        for question in questions:
            assert ask(*arguments, question=question) == 0
            alone.append(capsys.readouterr().out)
        assert ask("--questions", str(tmp_path / "questions.txt"), *arguments, question=None) == 0
        assert capsys.readouterr().out == "".join(alone)


def test_many_questions_share_one_reading(
    ask: Callable[..., int], says: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": "who", "question": QUESTION, "answers": ["Maria Kowalski"]},
        {"id": "when", "question": "When?", "answer": "March 14, 2015"},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--questions", str(tmp_path / "q.jsonl"), "--template", "ccq"]
    says("Maria Kowalski", "Zebra")
    assert ask(*arguments, question=None) == 0
    captured = capsys.readouterr()
    assert captured.out == "Maria Kowalski\nZebra\n"
    assert (
        "mean recall contains 0.50" in captured.err and "tokens read once for all questions" in captured.err
    )
    says("Maria Kowalski", "Zebra")
    assert ask(*arguments, "--json", question=None) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(row["id"], row["scores"]["contains"]) for row in said] == [("who", 1.0), ("when", 0.0)]
    assert said[0]["tokens"]["reused"] == said[1]["tokens"]["reused"] > said[0]["tokens"]["read"]


def test_ctrl_c_among_many_questions_keeps_those_that_were_answered(
    ask: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Batch.run

    def interrupted(self: Batch, items: Any) -> Any:
        answers = dict(original(self, items))
        yield 0, answers[0]
        yield 2, answers[2]
        raise KeyboardInterrupt

    monkeypatch.setattr(Batch, "run", interrupted)
    more = ["-Q", "Second?", "-Q", "Third?", "-Q", "Fourth?"]
    assert ask(*more, "--max-new-tokens", "3", "--template", "ccq") == 130
    captured = capsys.readouterr()
    first, second, third, end = captured.out.split("\n")
    assert first and third and (second, end) == ("", "")  # a line for each question, as far as it went
    assert "interrupted: 2 of 4 questions answered" in captured.err
    assert ask(*more, "--json") == 130
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == ["1", "3"]


def test_a_warning_of_many_questions_is_said_once(
    ask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("-Q", "Second?", "-Q", "Third?", "--max-new-tokens", "2", "-t", "cloze-cq") == 0
    err = capsys.readouterr().err
    assert err.count("the answer was cut after 2 tokens") == 1 and err.count("confidence") == 3


def test_a_question_that_fails_is_one_row(
    ask: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Batch.run

    def fails(self: Batch, items: Any) -> Any:
        for key, answer in original(self, items):
            yield key, JrtError("no numbers") if key == 0 else answer

    monkeypatch.setattr(Batch, "run", fails)
    assert ask("-Q", "Second?", "--max-new-tokens", "3", "--template", "ccq") == 3
    captured = capsys.readouterr()
    assert captured.out.startswith("\n") and "warning: no answer: no numbers" in captured.err
    assert ask("-Q", "Second?", "--json") == 3
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["error"] == {"kind": "JrtError", "message": "no numbers"} and rows[1]["answer"]
