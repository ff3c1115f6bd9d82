"""Batch: an answer is what it would be alone, whatever runs beside it, and an error is one row's."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import jrtcli
from jrtcli.batching import Batch, OutOfMemory
from jrtcli.errors import JrtError
from jrtcli.models import ARCHITECTURES
from jrtcli.reader import Reader


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name.replace("/", "_"), Path(__file__).parent / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


every = _load("train/tiny_models")
tiny = _load("tiny_checkpoint")
WORDS = every.WORDS
DOCUMENTS = [WORDS[: 40 + 37 * i] for i in range(6)]
QUESTIONS = ["who walks", "when do boats come home past the rocks", "where is the lamp"]
PAIRS = [(document, question) for document in DOCUMENTS for question in QUESTIONS]


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return jrtcli.load(every.save(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(scope="module")
def based(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return jrtcli.load(every.save(tmp_path_factory.mktemp("based"), "based"))


def alone(reader: Reader, pairs: Any = PAIRS, n: int = 9) -> list[Any]:
    answers = []
    for source, question in pairs:
        asking = reader.ask(source, question, max_new_tokens=n)
        for _ in asking:
            pass
        answers.append(asking.answer)
    return answers


def together(batch: Batch, reader: Reader, pairs: Any = PAIRS) -> dict[int, Any]:
    return dict(batch.run((i, reader.prepare(*pair)) for i, pair in enumerate(pairs)))


def check(got: dict[int, Any], expected: list[Any]) -> None:
    assert sorted(got) == list(range(len(expected)))
    for i, answer in enumerate(expected):
        assert not isinstance(got[i], Exception), got[i]
        assert (got[i].token_ids, got[i].text) == (answer.token_ids, answer.text), i
        assert got[i].finish_reason == answer.finish_reason
        assert got[i].probabilities == pytest.approx(answer.probabilities, rel=1e-4)
        assert (got[i].read_tokens, got[i].reused_tokens) == (answer.read_tokens, answer.reused_tokens)


@pytest.mark.parametrize("template", ["cq", "qcq", "cqcq"])
def test_as_alone(loaded: Any, template: str) -> None:
    reader = Reader(loaded, template=template)
    check(together(Batch(reader, rows=5, max_new_tokens=9), reader), alone(reader))


@pytest.mark.parametrize("rows", [1, 2, 7, None])
def test_any_number_of_rows(based: Any, rows: int | None) -> None:
    reader = Reader(based, template="cq")
    batch = Batch(reader, rows=rows, max_new_tokens=9)
    check(together(batch, reader), alone(reader))
    assert batch.tokens_read == sum(reader.prepare(*pair).tokens for pair in PAIRS)


def test_from_states_and_from_nothing(loaded: Any) -> None:
    reader = Reader(loaded, template="cq")
    states = [reader.read(document) for document in DOCUMENTS[:3]]
    pairs = [(source, question) for source in [*states, *DOCUMENTS[3:]] for question in QUESTIONS]
    before = [state.state.clone() for state in states]
    check(together(Batch(reader, rows=6, max_new_tokens=9), reader, pairs), alone(reader, pairs))
    assert [a.token_ids for a in alone(reader, pairs)] == [a.token_ids for a in alone(reader)]
    for state, copy in zip(states, before, strict=True):
        for layer, old in zip(state.state.layers, copy.layers, strict=True):
            assert all(torch.equal(layer[name], old[name]) for name in layer)


def test_in_passages(loaded: Any) -> None:
    reader = Reader(loaded, template="cq", window=24)
    expected = alone(reader)
    assert max(answer.passages for answer in expected) > 2
    check(together(Batch(reader, rows=5, max_new_tokens=9), reader), expected)


@pytest.mark.parametrize("fill", ["twice", "pad", "iterate"])
def test_an_encoder_of_fixed_length(tmp_path: Path, fill: str) -> None:
    loaded = jrtcli.load(tiny.save(tmp_path, "jrt_rnn", enc_length=192))
    reader = Reader(loaded, template="cq", fill=fill)
    pairs = PAIRS[:6]
    check(together(Batch(reader, rows=4, max_new_tokens=5), reader, pairs), alone(reader, pairs, 5))


def test_sampling_draws_what_it_would_alone(based: Any) -> None:
    reader = Reader(based, template="cq", temperature=1.5, seed=3)
    expected = alone(reader)
    assert [a.token_ids for a in expected] != [a.token_ids for a in alone(Reader(based, template="cq"))]
    check(together(Batch(reader, rows=5, max_new_tokens=9), reader), expected)


def test_rows_are_pulled_when_there_is_room(based: Any) -> None:
    reader = Reader(based, template="cq")
    pulled = 0

    def items() -> Iterator[Any]:
        nonlocal pulled
        for i, pair in enumerate(PAIRS):
            pulled += 1
            yield i, reader.prepare(*pair)

    answered = 0
    for _ in Batch(reader, rows=4, max_new_tokens=5).run(items()):
        answered += 1
        assert pulled <= answered + 2 * 4
    assert answered == len(PAIRS)


def test_stopped_it_answers_what_is_in_flight(based: Any) -> None:
    reader = Reader(based, template="cq")
    batch = Batch(reader, rows=4, max_new_tokens=9)
    done = {}
    for key, answer in batch.run((i, reader.prepare(*pair)) for i, pair in enumerate(PAIRS)):
        done[key] = answer
        batch.stop()
    assert 1 <= len(done) <= 4
    expected = alone(reader)
    assert all(answer.token_ids == expected[key].token_ids for key, answer in done.items())


class Small:
    """A memory in which only so many rows can be read, and stepped, at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Any, prefill: int, step: int) -> None:
        self.largest = 0
        read, go_on = model.prefill, model.step

        def prefill_(tokens: Any, state: Any = None, **options: Any) -> Any:
            bounds = options.get("cu_seqlens")
            self.check(tokens.shape[0] if bounds is None else len(bounds) - 1, prefill)
            return read(tokens, state, **options)

        def step_(token: Any, state: Any) -> Any:
            self.check(len(token), step)
            return go_on(token, state)

        monkeypatch.setattr(model, "prefill", prefill_, raising=False)
        monkeypatch.setattr(model, "step", step_, raising=False)

    def check(self, rows: int, most: int) -> None:
        if rows > most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")
        self.largest = max(self.largest, rows)


@pytest.mark.parametrize(("prefill", "step"), [(2, 8), (8, 3), (1, 1), (3, 2)])
def test_out_of_memory_halves_the_batch(
    based: Any, monkeypatch: pytest.MonkeyPatch, prefill: int, step: int
) -> None:
    reader = Reader(based, template="cq")
    expected = alone(reader)
    memory = Small(monkeypatch, based.model, prefill, step)
    batch = Batch(reader, rows=8, max_new_tokens=9)
    check(together(batch, reader), expected)
    assert memory.largest <= max(prefill, step) and 1 <= batch.rows <= max(prefill, step)


def test_a_row_too_large_alone_is_its_own_error(based: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(based, template="cq")
    expected = alone(reader)
    lengths = [reader.prepare(*pair).tokens for pair in PAIRS]
    limit = sorted(lengths)[-3]
    read = based.model.prefill

    def prefill(tokens: Any, state: Any = None, **options: Any) -> Any:
        bounds = options.get("cu_seqlens")
        longest = tokens.shape[1] if bounds is None else int(bounds.diff().max())
        if longest >= limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return read(tokens, state, **options)

    monkeypatch.setattr(based.model, "prefill", prefill, raising=False)
    got = together(Batch(reader, rows=8, max_new_tokens=9), reader)
    too_large = [i for i, answer in got.items() if isinstance(answer, Exception)]
    assert sorted(too_large) == [i for i, n in enumerate(lengths) if n >= limit]
    assert len(got) == len(PAIRS)
    for i, answer in got.items():
        if i in too_large:
            assert isinstance(answer, OutOfMemory) and "memory" in str(answer)
        else:
            assert answer.token_ids == expected[i].token_ids


@pytest.mark.parametrize("where", ["prefill", "step"])
def test_numbers_that_overflow_are_one_rows_error(
    based: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    reader = Reader(based, template="cq")
    expected = alone(reader)
    # A length that only the last row comes to.
    bad = max(reader.prepare(*pair).tokens for pair in PAIRS) + (7 if where == "step" else 0)
    last = [i for i, pair in enumerate(PAIRS) if reader.prepare(*pair).tokens + 7 >= bad]
    if where == "prefill":
        last = [i for i in last if reader.prepare(*PAIRS[i]).tokens == bad]
    assert len(last) == 1
    read, go_on = based.model.prefill, based.model.step

    def spoil(logits: Any, state: Any) -> Any:
        lengths = state.length - int(where == "step")
        return torch.where((lengths == bad)[:, None], torch.nan, logits), state

    if where == "prefill":
        monkeypatch.setattr(based.model, "prefill", lambda *a, **k: spoil(*read(*a, **k)), raising=False)
    else:
        monkeypatch.setattr(based.model, "step", lambda *a: spoil(*go_on(*a)), raising=False)
    got = together(Batch(reader, rows=5, max_new_tokens=9), reader)
    assert len(got) == len(PAIRS)
    for i, answer in got.items():
        if i in last:
            assert isinstance(answer, JrtError) and "overflowed" in str(answer)
        else:
            assert not isinstance(answer, Exception) and answer.token_ids == expected[i].token_ids


def test_a_fault_of_the_program_is_raised(based: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(based, template="cq")

    def prefill(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(based.model, "prefill", prefill, raising=False)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        together(Batch(reader, rows=4), reader)


def test_a_batch_needs_a_row(based: Any) -> None:
    with pytest.raises(ValueError, match="0 rows"):
        Batch(Reader(based, template="cq"), rows=0)
