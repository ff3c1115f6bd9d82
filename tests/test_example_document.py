"""The example document and its questions agree: every answer stands in it, once or as part of another."""

from __future__ import annotations

import json
from pathlib import Path

from jrtcli.evidence import grounding
from jrtcli.source import read_document


def test_every_answer_stands_in_its_document(root: Path) -> None:
    folder = root / "examples"
    rows = [
        json.loads(line) for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(rows) >= 12
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"id", "doc", "question", "answers"}
        document = read_document(folder / row["doc"])
        for answer in row["answers"]:
            assert grounding(answer, document.text).kind == "exact", answer
