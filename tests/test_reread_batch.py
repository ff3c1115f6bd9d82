"""Many questions read again where they are unsure, in one batch: the answers are those of one at a time."""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jrtcli.batching import Batch
from jrtcli.checkpoint import load
from jrtcli.course import Course, first_reader
from jrtcli.models import ARCHITECTURES
from jrtcli.reader import Reader
from jrtcli.reread_batch import RereadBatch
from jrtcli.rereading import Again, Rereading, readings


def _load(name: str) -> ModuleType:
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"reread_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("train/tiny_models")
DOCUMENTS = [tiny.WORDS[n : n + 60 + 31 * n] for n in range(7)]
QUESTIONS = ("who?", "where is the lamp", "when?", "who walks past the rocks")
CAUSAL = [name for name in ARCHITECTURES if name != "jrt_rnn"]


def _asked() -> list[tuple[str, str]]:
    return [(document, QUESTIONS[i % len(QUESTIONS)]) for i, document in enumerate(DOCUMENTS)]


def _reader(tmp_path: Path, name: str, template: str = "cq") -> Reader:
    return first_reader(Reader(load(tiny.save(tmp_path / name, name)), template=template))


def _together(reader: Reader, again: Again, rows: int = 4) -> dict[int, Rereading]:
    batch = Batch(reader, rows=rows, max_new_tokens=5, leads=True)
    courses = ((i, Course(reader, *asked, again.most)) for i, asked in enumerate(_asked()))
    found: dict[int, Rereading] = {}
    for key, answer in RereadBatch[int](batch, again).run(courses):
        assert isinstance(answer, Rereading)
        found[key] = answer
    return found


@pytest.mark.parametrize("most", [2, 3])
@pytest.mark.parametrize("name", CAUSAL)
def test_answers_are_those_of_one_question_at_a_time(name: str, most: int, tmp_path: Path) -> None:
    reader = _reader(tmp_path, name, "cqcq" if name == "gla" else "cq")
    most += reader.template.least_reads - 1
    every = [list(readings(reader, *asked, most=most, max_new_tokens=5)) for asked in _asked()]
    # Such that some answers are sure and others are not.
    margins = [one.margin for passes in every for one in passes if one.found]
    again = Again(most, statistics.median(margins) + 1e-3 if margins else 0.5)
    together = _together(reader, again)
    assert sorted(together) == list(range(len(DOCUMENTS)))
    for i, passes in enumerate(every):
        alone = Rereading.of(passes, again)
        assert [one.reads for one in together[i].passes] == [one.reads for one in alone.passes]
        assert [one.tokens for one in together[i].passes] == [one.tokens for one in alone.passes]
        for one, other in zip(together[i].passes, alone.passes, strict=True):
            assert one.answer.token_ids == other.answer.token_ids and one.answer.text == other.answer.text
            assert one.answer.finish_reason == other.answer.finish_reason
            assert one.margin == pytest.approx(other.margin, abs=1e-4) and one.found == other.found
        assert together[i].answer.read_tokens == alone.answer.read_tokens
        assert together[i].answer.reused_tokens == alone.answer.reused_tokens == 0


def test_readings_are_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = _reader(tmp_path, "gla")
    model = reader.loaded.model
    packs: list[int] = []
    prefill = model.prefill

    def counted(tokens: Any, state: Any = None, **options: Any) -> Any:
        packs.append(len(options["cu_seqlens"]) - 1 if "cu_seqlens" in options else 1)
        return prefill(tokens, state, **options)

    monkeypatch.setattr(model, "prefill", counted)
    # Two readings each: every first one in two parts, up to where the second goes on and beyond.
    assert all(len(one.passes) == 2 for one in _together(reader, Again(2, 1.01), rows=8).values())
    assert sum(packs) == 3 * len(DOCUMENTS) and len(packs) <= 6


def test_a_sure_answer_costs_no_second_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = _reader(tmp_path, "mamba")
    batch = Batch(reader, rows=4, max_new_tokens=5, leads=True)
    rereads = RereadBatch[int](batch, Again(2, -1.0))
    courses = [Course(reader, *asked, 2) for asked in _asked()]
    whole = sum(len(course.ids) for course in courses)
    found = dict(rereads.run(enumerate(courses)))
    assert len(found) == len(DOCUMENTS)
    assert batch.tokens_read + rereads.tokens_read == whole


def test_stopped_what_is_under_way_is_answered(tmp_path: Path) -> None:
    reader = _reader(tmp_path, "mamba")
    batch = Batch(reader, rows=2, max_new_tokens=5, leads=True)
    courses = ((i, Course(reader, *asked, 2)) for i, asked in enumerate(_asked()))
    found = {}
    for key, answer in RereadBatch[int](batch, Again(2, 1.01)).run(courses):
        found[key] = answer
        batch.stop()
    assert 1 <= len(found) <= 2
    assert all(isinstance(one, Rereading) and len(one.passes) == 2 for one in found.values())


def test_what_cannot_be_read_together_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = _reader(tmp_path, "gla")
    alone = {i: one.answer.text for i, one in _together(reader, Again(2, 1.01)).items()}
    prefill = reader.loaded.model.prefill

    def cramped(tokens: Any, state: Any = None, **options: Any) -> Any:
        if "cu_seqlens" in options:
            raise MemoryError
        return prefill(tokens, state, **options)

    monkeypatch.setattr(reader.loaded.model, "prefill", cramped)
    assert {i: one.answer.text for i, one in _together(reader, Again(2, 1.01)).items()} == alone
