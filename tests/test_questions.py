"""Questions in a file: lines or JSON lines, and mistakes by file and line."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from jrtcli.errors import JrtError
from jrtcli.questions import Question, read_questions


def test_a_question_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_bytes("\ufeffWho?\r\n\r\n  When? \nWhat\u2028else?\n".encode())
    assert read_questions(str(path)) == [
        Question("1", "Who?"),
        Question("2", "When?"),
        Question("3", "What\u2028else?"),
    ]


def test_json_lines_have_gold_answers(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"question": "Who?", "answers": ["a", "b"], "more": 1}\n\n'
        '{"question": "When?", "answer": "c", "id": 7}\n{"question": "What?", "id": "x", "answers": null}\n'
    )
    assert read_questions(str(path)) == [
        Question("1", "Who?", ("a", "b")),
        Question("7", "When?", ("c",)),
        Question("x", "What?"),
    ]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Who?\n")))
    assert read_questions("-") == [Question("1", "Who?")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no question"),
        (b" \n\r\n", "holds no question"),
        (b"Who?\n\xff\n", "is not UTF-8"),
        (b"Who?\0\n", "binary"),
        (b'{"question": "Who?"}\nWhen?\n', "q:2: is not JSON"),
        (b'{"question": "Who?"}\n\n[1]\n', "q:3: is not an object"),
        (b'{"text": "Who?"}\n', "q:1: has no question"),
        (b'{"question": "  "}\n', "q:1: has no question"),
        (b'{"question": 1}\n', "q:1: has no question"),
        (b'{"question": "Who?", "answers": [1]}\n', "q:1: answers must be"),
        (b'{"question": "Who?", "id": [1]}\n', "q:1: id must be"),
        (b'{"question": "Who?", "id": true}\n', "q:1: id must be"),
        (b'{"question": "a", "id": "x"}\n{"question": "b", "id": "x"}\n', "q:2: the id 'x' stands on line 1"),
        (b'{"question": "a", "doc": "x"}\n{"question": "b", "doc": "y"}\n', "q:2: is about another document"),
        (b"{" * 10**5, "q:1: is not JSON"),
    ],
)
def test_mistakes_name_file_and_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "q").write_bytes(content)
    with pytest.raises(JrtError) as error:
        read_questions(str(tmp_path / "q"))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(JrtError, match="cannot be read"):
            read_questions(str(path))
