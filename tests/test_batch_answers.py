"""Answers to rows: those of one row at a time, whatever shares their batch; an error is one row's."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import jrt_prompts
import jrtcli
from jrtcli import batch as batch_module
from jrtcli import lookahead
from jrtcli.batch import Answerer, BatchSettings, run_key
from jrtcli.document import save_state
from jrtcli.errors import TemplateError, UsageError
from jrtcli.models import ARCHITECTURES
from jrtcli.ordering import Ordering
from jrtcli.reader import Reader
from jrtcli.records import BadRow, Record, RecordReader
from jrtcli.shared_reading import read_together
from jrtcli.tally import Tally
from jrtcli.tokens import encode_prompt


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"batch_{name.replace('/', '_')}", Path(__file__).parent / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("train/tiny_models")
WORDS = tiny.WORDS
QUESTIONS = ("who walks", "when do boats come home past the rocks", "where is the lamp")
SETTINGS = BatchSettings(max_new_tokens=6, batch_size=4)


def load(tmp_path_factory: pytest.TempPathFactory, name: str) -> Any:
    return jrtcli.load(tiny.save(tmp_path_factory.mktemp(name), name))


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def every_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(tmp_path_factory, request.param)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(tmp_path_factory, "mamba2")


def rows(documents: int = 5) -> list[dict[str, Any]]:
    """Documents of different lengths with one question to three, no two rows of one document together."""
    made = []
    for question in range(3):
        for number in range(documents):
            if question <= number % 3:
                row = {"id": f"{number}.{question}", "context": WORDS[number : number + 40 + 25 * number]}
                made.append({**row, "question": QUESTIONS[question]})
    return made


def records(made: list[dict[str, Any]], tmp_path: Path) -> RecordReader:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return RecordReader(tmp_path / "in.jsonl")


def alone(reader: Reader, made: list[dict[str, Any]]) -> dict[Any, str]:
    said = {}
    for row in made:
        asking = reader.ask(row["context"], row["question"], max_new_tokens=SETTINGS.max_new_tokens)
        for _ in asking:
            pass
        said[row["id"]] = asking.answer.text
    return said


def answered(out: list[dict[str, Any]]) -> dict[Any, str]:
    assert len({row["id"] for row in out}) == len(out)
    return {row["id"]: row["answer"] for row in out}


def test_as_one_at_a_time(every_model: Any, tmp_path: Path) -> None:
    """Every template, every architecture: rows of one document share its reading and say the same."""
    made = rows()
    shared = set()
    for template in jrt_prompts.list_templates():
        answerer = Answerer(BatchSettings(max_new_tokens=6, template=template), loaded=every_model)
        out = list(answerer.answer(records(made, tmp_path)))
        assert answered(out) == alone(answerer.reader, made), template
        if any(row["tokens"]["reused"] for row in out):
            shared.add(template)
            whole = sum(row["tokens"]["read"] + row["tokens"]["reused"] for row in out)
            assert answerer.tokens_read < whole
    expected = {"cq", "cqcq", "ccq", "cloze-cq", "key-cq"}
    if every_model.model.has_encoder:
        expected -= {"cqcq", "ccq"}
    assert shared >= expected, shared
    assert not shared & {"qcq", "qccq"}


@pytest.mark.parametrize("fill", ["twice", "pad", "iterate"])
def test_an_encoder_of_fixed_length(fill: str, tmp_path: Path) -> None:
    folder = _load("tiny_checkpoint").save(tmp_path / "model", "jrt_rnn", enc_length=96)
    settings = BatchSettings(max_new_tokens=6, fill=fill, template="cq", batch_size=3)
    answerer = Answerer(settings, loaded=jrtcli.load(folder))
    assert answered(list(answerer.answer(records(rows(), tmp_path)))) == alone(answerer.reader, rows())


@pytest.mark.parametrize("rows_at_once", [1, 3, 64, None])
def test_whatever_the_batch_and_the_order(model: Any, rows_at_once: int | None, tmp_path: Path) -> None:
    made = rows(7)
    random.Random(rows_at_once).shuffle(made)
    answerer = Answerer(BatchSettings(max_new_tokens=6, batch_size=rows_at_once), loaded=model)
    assert answered(list(answerer.answer(records(made, tmp_path)))) == alone(answerer.reader, rows(7))


def test_long_documents_are_read_in_passages(model: Any, tmp_path: Path) -> None:
    made = [{"id": i, "context": WORDS, "question": q} for i, q in enumerate(QUESTIONS)]
    made.append({"id": 9, "context": WORDS[:30], "question": QUESTIONS[0]})
    answerer = Answerer(BatchSettings(max_new_tokens=6, window=24, template="cq"), loaded=model)
    out = list(answerer.answer(records(made, tmp_path)))
    assert answered(out) == alone(answerer.reader, made)
    assert {row["id"]: row.get("passages") is not None for row in out} == {
        0: True,
        1: True,
        2: True,
        9: False,
    }


def test_sampling_follows_the_seed_not_the_batch(model: Any, tmp_path: Path) -> None:
    made = rows()
    said = set()
    for seed, size in ((1, 1), (1, 5), (2, 5)):
        settings = BatchSettings(max_new_tokens=6, temperature=3.0, seed=seed, batch_size=size)
        answerer = Answerer(settings, loaded=model)
        said.add(tuple(sorted(answered(list(answerer.answer(records(made, tmp_path)))).items())))
        assert dict(max(said)) == alone(answerer.reader, made) or len(said) > 1
    assert len(said) == 2


def test_an_output_row(model: Any, tmp_path: Path) -> None:
    text = "The lamp.\r\nIt is red."
    (tmp_path / "doc.txt").write_text(text)
    carried = {"split": "dev", "answer": "gold", "jrt": 3, "nested": {"a": [None]}}
    made = [
        {"id": 1, "context": text, "question": "q", "answers": ["red"], **carried},
        {"id": "2", "doc": "doc.txt", "question": "q"},
    ]
    answerer = Answerer(SETTINGS, loaded=model)
    first, second = sorted(answerer.answer(records(made, tmp_path)), key=lambda row: str(row["id"]))
    assert list(first)[:5] == ["id", "question", "answers", "split", "nested"]
    assert first["input"] == {"answer": "gold", "jrt": 3} and "context" not in first
    assert set(first["scores"]) == {"contains", "exact_match", "f1"} and "scores" not in second
    assert second["doc"] == "doc.txt" and second["finish_reason"] in ("stop", "length")
    assert first["tokens"]["prompt"] == first["tokens"]["read"] > first["tokens"]["context"]
    assert 0 < first["confidence"] <= 1 and first["timings"]["prefill_s"] > 0
    assert first["jrt"]["run"] == answerer.run_hash and len(first["jrt"]["row"]) == 32


def test_evidence_is_in_the_rows_own_text(model: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    from jrtcli.output_rows import answer_row
    from jrtcli.source import Document, Piece, from_text

    asking = Reader(model).ask("x", "q", max_new_tokens=2)
    for _ in asking:
        pass
    text = "The lamp.\r\nIt is red."
    answer = replace(asking.answer, text="It is red")
    (record,) = records([{"id": 1, "context": text, "question": "q"}], tmp_path)
    assert isinstance(record, Record)
    row = answer_row(record, answer, Document(text, (Piece("context"),)), model, run="0")
    (span,) = row["evidence"]["spans"]
    assert text[span["start"] : span["end"]] == span["text"] == "It is red" and "line" not in span
    (file,) = records([{"id": 1, "doc": "a.txt", "question": "q"}], tmp_path)
    assert isinstance(file, Record)
    (span,) = answer_row(file, answer, from_text(text), model, run="0")["evidence"]["spans"]
    assert span["line"] == 2


def test_a_state_goes_on_from_what_was_read(model: Any, tmp_path: Path) -> None:
    answerer = Answerer(BatchSettings(max_new_tokens=6, template="ccq"), loaded=model)
    save_state(tmp_path / "doc.state", answerer.reader.read(WORDS))
    made = [{"id": i, "state": "doc.state", "question": q} for i, q in enumerate(QUESTIONS)]
    out = list(answerer.answer(records(made, tmp_path)))
    texts = [{"id": i, "context": WORDS, "question": q} for i, q in enumerate(QUESTIONS)]
    assert answered(out) == alone(answerer.reader, texts)
    assert all(row["tokens"]["reused"] > 100 and row["state"] == "doc.state" for row in out)
    assert answerer.tokens_read < 100
    other = Answerer(BatchSettings(max_new_tokens=6, template="cq"), loaded=model)
    errors = [row["error"] for row in other.answer(records(made, tmp_path))]
    assert [error["kind"] for error in errors] == ["state"] * 3 and "template" in errors[0]["message"]


def test_what_cannot_be_read_is_the_error_of_its_rows(model: Any, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("  \n")
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "bad.state").write_bytes(b"x" * 100)
    names = {
        "doc": ["missing.txt", "blank.txt", "binary.txt", ".", "/dev/zero"],
        "state": ["bad.state", "no"],
    }
    made: list[Any] = [
        {"id": f"{name}{n}", kind: name, "question": "q", "extra": n}
        for kind, listed in names.items()
        for name in listed
        for n in range(2)
    ]
    made.append({"id": "surrogate", "context": "\ud800", "question": "q"})
    made.append({"id": "good", "context": "c", "question": "q"})
    out = {row["id"]: row for row in Answerer(SETTINGS, loaded=model).answer(records(made, tmp_path))}
    assert len(out) == len(made) and "answer" in out["good"]
    kinds = {id: row["error"]["kind"] for id, row in out.items() if "error" in row}
    assert {kind for id, kind in kinds.items() if id.startswith((*names["doc"],))} <= {"document"} | {"state"}
    assert kinds["missing.txt0"] == kinds["/dev/zero1"] == "document" and kinds["bad.state0"] == "state"
    assert kinds["surrogate"] == "prompt" and kinds["no1"] == "document"
    error = out["missing.txt1"]["error"]
    assert error["message"] == "missing.txt: there is no such file" and error["line"] == 2
    assert out["missing.txt1"]["extra"] == 1 and "jrt" in out["missing.txt1"]


def test_bad_rows_come_out_with_their_place(model: Any, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(
        '{"id": "a", "context": "c", "question": "q"}\nnonsense\n{"id": "b"}\n'
    )
    out = list(Answerer(SETTINGS, loaded=model).answer(RecordReader(tmp_path / "in.jsonl")))
    bad = {row["error"]["line"]: row for row in out if "error" in row}
    assert {line: (row["id"], row["error"]["kind"]) for line, row in bad.items()} == {
        2: (None, "bad_json"),
        3: ("b", "missing_field"),
    }


def test_bad_rows_without_end_do_not_wait_for_it(model: Any) -> None:
    endless = (BadRow("f", n, n - 1, None, "bad_json", "m") for n in itertools.count(1))
    out = Answerer(SETTINGS, loaded=model).answer(endless)
    assert [row["error"]["line"] for row in itertools.islice(out, 200)] == list(range(1, 201))


def test_a_row_may_bring_its_own_prompt(model: Any, tmp_path: Path) -> None:
    answerer = Answerer(SETTINGS, loaded=model)
    plain = list(records(rows(), tmp_path))[:2]
    prompt = jrt_prompts.Prompt((jrt_prompts.Segment("context", WORDS[:60]),), ("\n",))
    own = [replace(record, prompt=prompt) for record in plain]
    assert {record.key for record in own}.isdisjoint(record.key for record in plain)
    out = list(answerer.answer(own))
    assert not [row["error"] for row in out if "error" in row]
    (alone,) = {row["answer"] for row in out}  # questions do not count, the prompt does
    assert {row["tokens"]["prompt"] for row in out} == {len(encode_prompt(prompt, model.tokenizer).ids)}
    assert all(row["continuation"].strip() == alone for row in out)
    assert all("continuation" not in row for row in answerer.answer(plain))


def test_a_fault_of_jrt_shows_nothing_of_the_row(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = Answerer(SETTINGS, loaded=model)
    prepare = answerer.reader.prepare

    def faulty(source: Any, question: str, **options: Any) -> Any:
        if question == QUESTIONS[1]:
            raise KeyError("hunter2")
        return prepare(source, question, **options)

    monkeypatch.setattr(answerer.reader, "prepare", faulty)
    out = list(answerer.answer(records(rows(), tmp_path)))
    errors = [row["error"] for row in out if "error" in row]
    assert len(errors) == 3 and len(out) == len(rows())
    assert {(error["kind"], error["message"]) for error in errors} == {
        ("unexpected", "KeyError, a fault of jrt")
    }


def test_stopped_it_finishes_what_is_in_flight(model: Any, tmp_path: Path) -> None:
    answerer = Answerer(BatchSettings(max_new_tokens=6, batch_size=2), loaded=model)
    pulled = []

    def watched() -> Iterator[Record | BadRow]:
        for row in records(rows(9), tmp_path):
            pulled.append(row)
            yield row

    out = answerer.answer(watched())
    first = next(out)
    answerer.stop()
    rest = list(out)
    assert "answer" in first and len(rest) <= 2 and len(pulled) == len(rows(9))


def test_documents_are_read_ahead_in_packs(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(model, template="ccq")
    aheads = [reader.ahead(WORDS[n : 40 + 30 * n]) for n in range(4)]
    packs = []
    prefill = model.model.prefill

    def watched(tokens: Any, *rest: Any, **options: Any) -> Any:
        packs.append(0 if options.get("cu_seqlens") is None else len(options["cu_seqlens"]) - 1)
        if packs[-1] > limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        if limit == 0 and tokens.shape[1] == aheads[2].tokens:
            raise RuntimeError("out of memory")
        return prefill(tokens, *rest, **options)

    monkeypatch.setattr(model.model, "prefill", watched)
    limit = 4
    states = read_together(model.model, aheads)
    assert packs == [4]
    for ahead, state in zip(aheads, states, strict=True):
        assert state is not None and state.context == ahead.document.text
        fresh = reader.read(ahead.document.text)
        for ours, theirs in zip(state.state.layers, fresh.state.layers, strict=True):
            assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)
    packs.clear()
    limit = 2
    assert None not in read_together(model.model, aheads) and packs[:3] == [4, 2, 2]
    limit = 0
    found = read_together(model.model, aheads)
    assert [state is None for state in found] == [False, False, True, False]
    assert read_together(model.model, []) == []


def test_a_document_that_cannot_be_shared_is_read_for_each_row(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "read_together", lambda model, aheads: [None] * len(aheads))
    answerer = Answerer(SETTINGS, loaded=model)
    out = list(answerer.answer(records(rows(), tmp_path)))
    assert answered(out) == alone(answerer.reader, rows())
    assert not any(row["tokens"]["reused"] for row in out)


def test_the_run_is_what_answers_depend_on(model: Any, tmp_path: Path) -> None:
    def key(**changed: Any) -> dict[str, Any]:
        return Answerer(BatchSettings(**changed), loaded=model).run

    same = key()
    assert json.loads(json.dumps(same)) == same
    assert key(batch_size=3, device="cpu", backend="numba") == same
    template = tmp_path / "mine.toml"
    source = (Path(jrt_prompts.__file__).parent / "cq.toml").read_text()
    template.write_text(source)
    assert key(template=str(template)) == same  # the same order of the same words
    template.write_text(source.replace("Question", "Frage"))
    mine = key(template=str(template))
    changes = [{"seed": 1}, {"temperature": 0.5}, {"max_new_tokens": 9}, {"template": "qcq"}, {"reads": 3}]
    others = [key(**change) for change in [*changes, {"window": 9}, {"fill": "pad"}]]
    assert len({json.dumps(run) for run in [same, mine, *others]}) == 9
    assert run_key(SETTINGS, Reader(model))["weights_sha256"] == model.identity.weights_sha256


def test_what_no_row_could_be_read_with_is_said_at_once(model: Any) -> None:
    with pytest.raises(TemplateError, match="no template"):
        Answerer(BatchSettings(template="nonsense"), loaded=model)
    with pytest.raises(UsageError, match="reads must be a whole number"):
        Answerer(BatchSettings(reads=99), loaded=model)


def record(id: int, context: str) -> Record:
    return Record("f", id + 1, id, id, "q", (), context, None, None, "context")


def groups(made: list[Record | None], **limits: int) -> list[list[int] | None]:
    found = lookahead.look_ahead(made, **limits)
    return [None if group is None else [int(row.id) for row in group] for group in found]


def test_rows_in_view_are_grouped_longest_first() -> None:
    made: list[Record | None] = [record(n, "abc"[n % 3] * (1 + n % 3)) for n in range(9)]
    assert groups(made) == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]
    # A view of four rows: its last document is held back, as it may go on.
    assert groups(made, rows=4) == [[2], [1], [4], [0, 3], [7], [6], [5, 8]]
    assert groups([record(n, "a" if n < 5 else "bb") for n in range(8)], rows=3) == [
        [0, 1, 2],
        [3, 4],
        [5, 6, 7],
    ]
    assert groups(made, characters=3) == [[n] for n in range(9)]
    assert groups([made[0], None, made[3], None]) == [[0], None, [3], None]
    assert groups([]) == []


def test_an_order_is_kept_as_soon_as_it_can_be(tmp_path: Path) -> None:
    order = Ordering()
    keys = [row.key for row in order.watch([record(n, "c") for n in range(4)])]

    def put(n: int) -> list[str]:
        return [row["jrt"]["row"] for row in order.put({"jrt": {"row": keys[n]}})]

    assert (put(2), put(0), put(1)) == ([], [keys[0]], [keys[1], keys[2]])
    assert list(order.rest()) == [] and put(3) == [keys[3]]


def test_a_tally() -> None:
    tally = Tally()
    assert tally.scores == [] and tally.rows == 0
    scores = {"contains": 1.0, "exact_match": 0.0, "f1": 0.5}
    for value in (1.0, 0.0):
        tally.add({"answer": "a", "tokens": {"answer": 3}, "scores": {**scores, "contains": value}})
    tally.add({"answer": "a", "tokens": {"answer": 1}})
    tally.add({"error": {"kind": "model", "line": 4}})
    tally.add({"error": {"kind": "model", "line": 2}})
    assert (tally.rows, tally.answered, tally.errors, tally.answer_tokens) == (5, 3, 2, 7)
    assert tally.kinds == {"model": 2} and tally.first["model"]["line"] == 4
    assert [(score.metric, score.value, score.count) for score in tally.scores] == [
        ("contains", 0.5, 2),
        ("exact_match", 0.0, 2),
        ("f1", 0.5, 2),
    ]
    assert tally.scores[0].stderr == pytest.approx(0.5)
