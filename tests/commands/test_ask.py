"""`jrt ask`: the answer alone on stdout, the report on stderr, mistakes in one line."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jrtcli.cli import main
from jrtcli.commands.ask_report import bytes_size, size, times
from jrtcli.generate import Chosen, Generation


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


def test_the_answer_is_all_that_stdout_holds(
    ask: Callable[..., int], says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says("Maria Kowalski")
    assert ask() == 0
    captured = capsys.readouterr()
    assert captured.out == "Maria Kowalski\n"
    assert "recall      the answer stands in the document\n" in captured.err
    assert "doc.txt:4  Contact person: [Maria Kowalski]" in captured.err
    assert "confidence  0.90 (mean token probability)" in captured.err
    assert "twice (template cqcq)" in captured.err
    for word in ("first token", "prefill", "tokens/s", "state", "KV cache", "model (based"):
        assert word in captured.err, word
    assert "cpu · float32 · numba" in captured.err
    assert "\x1b" not in captured.err


def test_an_answer_that_is_not_in_the_document_is_said_plainly(
    ask: Callable[..., int], says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says("Zebra 77")
    assert ask() == 0
    said = capsys.readouterr().err
    assert "recall      the answer is not in the document: it may be invented" in said
    assert "evidence    none" in said


def test_words_that_stand_only_elsewhere_are_not_the_answer(
    ask: Callable[..., int], says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says("Maria Maria Maria")
    assert ask() == 0
    said = capsys.readouterr().err
    assert "recall      the words of the answer stand in the document, but not as the answer has them" in said
    assert said.count("[Maria]") == 1


def test_low_confidence_is_said_plainly(ask: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    # Random weights are sure of nothing.
    assert ask("--max-new-tokens", "3") == 0
    assert "low: the model was not sure" in capsys.readouterr().err


def test_a_checkpoint_says_what_low_confidence_is() -> None:
    from types import SimpleNamespace

    from jrtcli.report import Report

    def low(confidence: float, **settings: float) -> bool:
        parts = {
            "answer": SimpleNamespace(confidence=confidence),
            "loaded": SimpleNamespace(settings=settings),
        }
        return Report(document=None, golds=(), grounding=None, scores=None, **parts).low_confidence  # type: ignore[arg-type]

    assert low(0.4) and not low(0.6)
    assert low(0.6, low_confidence=0.8) and not low(0.85, low_confidence=0.8)


def test_gold_answers_are_scored(
    ask: Callable[..., int], says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says("Maria Kowalski, MD")
    assert ask("--answer", "maria kowalski") == 0
    assert "recall      contains yes · exact match no · F1 0.80" in capsys.readouterr().err


def test_quiet_is_only_the_answer(
    ask: Callable[..., int], says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says("Maria")
    assert ask("-q") == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("Maria\n", "")


def test_json_is_one_object_with_everything(
    ask: Callable[..., int], says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says("Maria Kowalski")
    assert ask("--json", "--answer", "Maria Kowalski") == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert (said["id"], said["question"], said["answer"]) == ("1", QUESTION, "Maria Kowalski")
    assert said["scores"] == {"contains": 1.0, "exact_match": 1.0, "f1": 1.0}
    assert said["answers"] == ["Maria Kowalski"] and said["finish_reason"] == "stop"
    span = said["evidence"]["spans"][0]
    assert said["evidence"]["kind"] == "exact" and span["text"] == "Maria Kowalski" and span["line"] == 4
    assert tiny.TEXT[span["start"] : span["end"]] == "Maria Kowalski"
    assert said["confidence"] == pytest.approx(0.9)
    assert said["tokens"]["prompt"] > 2 * said["tokens"]["context"] > 100
    assert said["timings"]["first_token_s"] > 0 and said["memory"]["kv_cache_bytes"] > 0
    assert said["model"]["architecture"] == "based" and len(said["model"]["weights_sha256"]) == 64
    machine = said["machine"]
    assert (machine["device"], machine["dtype"], machine["backend"]) == ("cpu", "float32", "numba")
    assert machine["weights"] == "auto" and machine["dtype_reason"]
    assert said["prompt"] == {"template": "cqcq", "reads": 2}


def test_json_is_exact_where_the_screen_is_clean(
    ask: Callable[..., int], says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;title\x07Maria\x1b[2J\u202e"
    says(evil, evil)
    assert ask("--json") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out
    assert json.loads(out)["answer"] == evil
    assert ask() == 0
    assert capsys.readouterr().out == "Maria\n"


def test_several_questions_are_answered_in_turn(
    ask: Callable[..., int], says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says("one", "two")
    assert ask("--question", "Second?", "--answer", "one", "--answer", "three") == 0
    captured = capsys.readouterr()
    assert captured.out == "one\ntwo\n"
    assert captured.err.index(QUESTION) < captured.err.index("Second?")
    says("one", "two")
    assert ask("--question", "Second?", "--json", "--answer", "one", "--answer", "three") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == ["1", "2"]
    assert [row["scores"]["contains"] for row in rows] == [1.0, 0.0]


def test_compare_shows_both_readings(
    ask: Callable[..., int], says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says("Zebra", "Maria Kowalski")
    assert ask("--compare", "--answer", "Maria Kowalski", "--reads", "2") == 0
    captured = capsys.readouterr()
    assert captured.out == "Maria Kowalski\n"
    header = next(line for line in captured.err.splitlines() if "read once" in line)
    assert "read twice" in header
    answers = next(line for line in captured.err.splitlines() if line.startswith("answer"))
    assert "Zebra" in answers and "Maria Kowalski" in answers
    says("Zebra", "Maria Kowalski")
    assert ask("--compare", "--json", "--reads", "3") == 0
    said = json.loads(capsys.readouterr().out)
    (once,) = said["compared"]
    assert (said["prompt"]["reads"], once["prompt"]["reads"]) == (3, 1)
    assert (said["answer"], once["answer"]) == ("Maria Kowalski", "Zebra")


def test_compare_shows_the_orders_of_reading(
    ask: Callable[..., int], says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says("Zebra", "Lion", "Maria Kowalski")  # the model's own order, cqcq here, is asked last
    assert ask("--compare", "--answer", "Maria Kowalski") == 0
    captured = capsys.readouterr()
    assert captured.out == "Maria Kowalski\n"
    header = next(line for line in captured.err.splitlines() if "(qcq)" in line)
    assert header.split() == ["read", "once", "(cq)", "read", "once", "(qcq)", "read", "twice", "(cqcq)"]
    answers = next(line for line in captured.err.splitlines() if line.startswith("answer"))
    assert answers.split() == ["answer", "Zebra", "Lion", "Maria", "Kowalski"]
    says("Zebra", "Lion", "Maria Kowalski")
    assert ask("--compare", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["prompt"]["template"] for row in said["compared"]] == ["cq", "qcq"]
    assert (said["prompt"]["template"], said["answer"]) == ("cqcq", "Maria Kowalski")


def test_two_documents_and_stdin_are_one_context(
    document: Path,
    folder: Path,
    says: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"first\nThe colour is mauve.\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    says("mauve")
    arguments = ["--doc", str(document), "--doc", "-", "--question", QUESTION, "--model", str(folder)]
    assert main(["ask", *arguments]) == 0
    assert "stdin:2  The colour is [mauve]." in capsys.readouterr().err


def test_a_prompt_longer_than_the_trained_context_is_warned_of(
    ask: Callable[..., int], document: Path, says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    document.write_text(tiny.TEXT * 14)
    says("Maria")
    assert ask() == 0
    assert "the model was trained on 2,048" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_said(
    ask: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Generation._draw
    calls = 0

    def interrupted(self: Generation) -> tuple[int, float]:
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Generation, "_draw", interrupted)
    template = "cloze-cq"
    assert ask("--template", template) == 130
    captured = capsys.readouterr()
    assert captured.out.endswith("\n") and "interrupted" in captured.err
    assert ask("--template", template, "--json") == 130
    said = json.loads(capsys.readouterr().out)
    assert said["finish_reason"] == "interrupted" and said["tokens"]["answer"] == 3


def test_ctrl_c_while_reading_says_nothing_else(
    ask: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Generation) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Generation, "__next__", interrupted)
    assert ask() == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "interrupted\n")
    assert ask("--compare") == 130
    assert capsys.readouterr().out == ""


def test_ctrl_c_shows_also_what_waited_for_its_capitals(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import jrtcli

    model = tiny.save(tmp_path / "lower", "jrt_rnn", lowercase=True)
    plan = jrtcli.load(model).tokenizer.encode(" maria kowalski", first=False)

    def choose(logits: Any, randoms: Any, **_: Any) -> list[Chosen]:
        if not plan:
            raise KeyboardInterrupt
        return [Chosen(plan.pop(0), 0.5)]

    monkeypatch.setattr("jrtcli.generate.choose", choose)
    assert main(["ask", "-d", str(document), "-Q", QUESTION, "-m", str(model)]) == 130
    assert capsys.readouterr().out == "Maria Kowalski\n"


def test_one_seed_one_answer(ask: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for seed in ("1", "1", "2", "3"):
        assert ask("-q", "--temperature", "2", "--seed", seed, "--max-new-tokens", "8") == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and len(set(said)) > 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "no document"),
        (["--doc", "{doc}"], 2, "no question"),
        (["--doc", "{doc}", "--question", "  "], 2, "question is empty"),
        (["--question", "Who?"], 2, "no document"),
        (["--doc", "{dir}/missing.txt", "--question", "Who?"], 1, "missing.txt"),
        (["--doc", "{dir}", "--question", "Who?"], 1, "irectory"),
        (["--doc", "{dir}/empty", "--question", "Who?"], 1, "empty"),
        (["--doc", "{dir}/binary", "--question", "Who?"], 1, "binary"),
        (["--doc", "{dir}/latin1", "--question", "Who?"], 1, "UTF-8"),
        (["--doc", "{doc}", "--question", "Who?", "--model", "mamba-131m"], 1, "mamba-130m"),
        (["--doc", "{doc}", "--question", "Who?", "--model", "{dir}/nowhere"], 1, "nowhere"),
        (["--doc", "{doc}", "--question", "Who?", "--template", "cqcqcq"], 2, "no template"),
        (["--doc", "{doc}", "--question", "Who?", "--fill", "thrice"], 2, "thrice"),
        (["--doc", "{doc}", "--question", "Who?", "--model", "{model}", "--device", "tpu"], 2, "device"),
        (["--doc", "{doc}", "--question", "Who?", "--model", "{model}", "--dtype", "int4"], 2, "dtype"),
        (["--doc", "{doc}", "--question", "Who?", "--model", "{model}", "--backend", "x"], 2, "backend"),
        (["--doc", "{doc}", "--question", "Who?", "--model", "{model}", "--reads", "65"], 2, "reads"),
        (["--doc", "{doc}", "-Q", "a", "-Q", "b", "-a", "c", "--model", "{model}"], 2, "--answer"),
        (["--doc", "{doc}", "-Q", "a", "--compare", "--reads", "1", "-m", "{model}"], 2, "--reads 2"),
        (["--doc", "{doc}", "-Q", "a", "--compare", "-t", "{dir}/one.toml", "-m", "{model}"], 2, "reads"),
        (["--state", "{dir}/missing.state", "-Q", "a"], 1, "missing.state"),
        (["--state", "{doc}", "-Q", "a"], 1, "is not a document's state"),
        (["--state", "{doc}", "-Q", "a", "--compare"], 2, "--compare"),
        (["--doc", "{doc}", "--questions", "{dir}/missing"], 1, "missing"),
        (["--doc", "{doc}", "--questions", "{dir}/empty"], 2, "holds no question"),
        (["--doc", "{doc}", "--questions", "{doc}", "-Q", "a"], 2, "--questions"),
        (["--doc", "-", "--questions", "-"], 2, "stdin"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    code: int,
    words: str,
    document: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\x7fELF\x00\x01\x02\xff")
    (tmp_path / "latin1").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "one.toml").write_text("parts = [{ context = true }, { question = true }]")
    filled = [a.format(doc=document, dir=tmp_path, model=folder) for a in arguments]
    found = main(["ask", *filled])
    captured = capsys.readouterr()
    assert found == code, captured.err
    assert captured.out == ""
    assert words in captured.err and captured.err.count("\n") == 1 and captured.err.startswith("jrt: ")


def test_sizes_in_words() -> None:
    assert [times(n) for n in (1, 2, 3)] == ["once", "twice", "3 times"]
    assert [size(n) for n in (12, 98_208, 2_100_000, 1_372_178_432)] == ["12", "98.2k", "2.1M", "1.37B"]
    assert [bytes_size(n) for n in (12, 42_500, 18_700_000)] == ["12 B", "42.5 kB", "18.7 MB"]
