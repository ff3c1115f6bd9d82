"""Reading again only where it pays: each pass is as of so many readings from nothing, and no more is read."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jrtcli import calibration
from jrtcli.calibration import Sample, calibrate, curve, keep, point, samples_of, threshold_of
from jrtcli.checkpoint import load
from jrtcli.course import first_reader
from jrtcli.errors import NotResumable, UsageError
from jrtcli.models import ARCHITECTURES
from jrtcli.reader import Reader
from jrtcli.rereading import THRESHOLD, Again, Rereading, readings


def _load(name: str) -> ModuleType:
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("train/tiny_models")
WORDS = tiny.WORDS
CAUSAL = [name for name in ARCHITECTURES if name != "jrt_rnn"]


def _twin(reader: Reader, reads: int, **options: Any) -> Any:
    """The answer of so many readings from nothing."""
    asking = Reader(reader.loaded, template=reader.template, reads=reads).ask(WORDS, "who?", **options)
    for _ in asking:
        pass
    return asking.answer


@pytest.mark.parametrize("template", ["cq", "cqcq", "qcq", "ccq"])
@pytest.mark.parametrize("name", CAUSAL)
def test_each_pass_is_the_answer_of_so_many_readings(name: str, template: str, tmp_path: Path) -> None:
    loaded = load(tiny.save(tmp_path / name, name))
    reader = first_reader(Reader(loaded, template=template))
    found = list(readings(reader, WORDS, "who?", most=3, max_new_tokens=6))
    assert [one.reads for one in found] == [1, 2, 3]
    whole = 0
    for one in found:
        twin = _twin(reader, one.reads, max_new_tokens=6)
        assert one.answer.token_ids == twin.token_ids and one.answer.text == twin.text
        assert one.answer.probabilities == pytest.approx(twin.probabilities, abs=1e-4)
        assert one.answer.finish_reason == twin.finish_reason
        # Only what was not read before, and the end of the prompt, which differs.
        assert one.tokens == one.answer.read_tokens < twin.read_tokens or one.reads == 1
        whole += one.tokens
    assert whole < _twin(reader, 3, max_new_tokens=6).read_tokens + 2 * 40


def test_a_second_reading_begins_where_the_first_one_ended(tmp_path: Path) -> None:
    loaded = load(tiny.save(tmp_path / "m", "gla"))
    reader = first_reader(Reader(loaded, template="cqcq"))
    once, twice = readings(reader, WORDS, "who?", most=2, max_new_tokens=3)
    end = len(loaded.tokenizer.encode("\nAnswer:", first=False))
    full = _twin(reader, 2, max_new_tokens=3).read_tokens
    assert once.tokens + twice.tokens <= full + end
    seen: list[tuple[int, int]] = []
    for _ in readings(reader, WORDS, "who?", max_new_tokens=3, on_progress=lambda *at: seen.append(at)):
        pass
    assert (once.tokens, once.tokens) in seen and (twice.tokens, twice.tokens) in seen


def test_nothing_more_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    loaded = load(tiny.save(tmp_path / "m", "gla"))
    read = []
    prefill = loaded.model.prefill

    def watched(tokens: Any, *rest: Any, **options: Any) -> Any:
        read.append(tokens.shape[1])
        return prefill(tokens, *rest, **options)

    loaded.model.prefill = watched  # type: ignore[method-assign]
    passes = readings(first_reader(Reader(loaded, template="cq")), WORDS, "who?", max_new_tokens=3)
    once = next(passes)
    assert sum(read) == once.tokens
    twice = next(passes)
    assert sum(read) == once.tokens + twice.tokens


def test_it_goes_on_from_the_state_of_a_document(tmp_path: Path) -> None:
    loaded = load(tiny.save(tmp_path / "m", "mamba2"))
    reader = first_reader(Reader(loaded, template="cqcq"))
    states = []
    fresh = list(readings(reader, WORDS, "who?", max_new_tokens=5, on_read=states.append))
    saved = reader.read(WORDS)
    assert len(states) == 1 and int(states[0].length[0]) == saved.tokens
    again = list(readings(reader, saved, "who?", max_new_tokens=5))
    assert [one.answer.text for one in again] == [one.answer.text for one in fresh]
    assert again[0].tokens == fresh[0].tokens - saved.tokens
    assert again[0].answer.reused_tokens == saved.tokens


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1.01])
def test_a_sure_answer_ends_the_reading(threshold: float, tmp_path: Path) -> None:
    loaded = load(tiny.save(tmp_path / "m", "mamba"))
    reader = first_reader(Reader(loaded, template="cq"))
    every = list(readings(reader, WORDS, "who?", most=3, max_new_tokens=4))
    again = Rereading(readings(reader, WORDS, "who?", most=3, max_new_tokens=4), Again(3, threshold))
    text = "".join(token.text for token in again)
    sure = next((i for i, one in enumerate(every) if not one.unsure(threshold)), 2)
    assert len(again.passes) == sure + 1
    assert again.answer.text == every[sure].answer.text == text
    assert again.answer.read_tokens == sum(one.tokens for one in every[: sure + 1])
    account = again.account()
    assert [row["reads"] for row in account] == list(range(1, sure + 2))
    assert all(row["unsure"] for row in account[:-1])
    if threshold < 0:
        assert len(again.passes) == 1
    if threshold > 1:
        assert len(again.passes) == 3 and "margin" in str(account[0]["unsure"])


def test_interrupted_the_answer_so_far_is_kept(tmp_path: Path) -> None:
    loaded = load(tiny.save(tmp_path / "m", "mamba"))
    [first] = list(readings(first_reader(Reader(loaded, template="cq")), WORDS, "who?", max_new_tokens=4))[:1]

    def cut() -> Any:
        yield first
        raise KeyboardInterrupt

    again = Rereading(cut(), Again(3, 1.01))
    with pytest.raises(KeyboardInterrupt):
        next(again)
    assert again.answer.text == first.answer.text and again.answer.finish_reason == "interrupted"
    with pytest.raises(ValueError, match="nothing was read"):
        _ = Rereading(iter(())).answer


def test_what_cannot_be_read_again_is_said(tmp_path: Path) -> None:
    causal, encoder = (load(tiny.save(tmp_path / name, name)) for name in ("gla", "jrt_rnn"))
    with pytest.raises(NotResumable, match="encoder"):
        next(readings(Reader(encoder, template="cq"), WORDS, "who?"))
    with pytest.raises(UsageError, match="begins with 1"):
        next(readings(Reader(causal, template="cq"), WORDS, "who?", most=1))
    with pytest.raises(UsageError, match="--window 0"):
        next(readings(Reader(causal, template="cq", reads=1, window=20), WORDS * 3, "who?"))


SAMPLES = [
    Sample((0.0, 1.0), (100, 210), (0.1, 0.9), (True, True)),
    Sample((1.0, 1.0), (100, 210), (0.8, 0.9), (True, True)),
    Sample((0.0, 1.0), (100, 210), (0.9, 0.9), (False, True)),
    Sample((0.0, 0.0), (100, 210), (0.3, 0.9), (True, True)),
]


def test_a_curve_goes_from_once_to_always_again() -> None:
    every = curve(SAMPLES)
    assert (every[0].recall, every[0].tokens, every[0].again) == (0.25, 100, 0)
    assert (every[-1].recall, every[-1].tokens, every[-1].again) == (0.75, 210, 1)
    assert [p.tokens for p in every] == sorted(p.tokens for p in every)
    assert (point(SAMPLES, 0.0).recall, point(SAMPLES, 0.0).again) == (0.5, 0.25)
    assert (point(SAMPLES, 0.2).recall, point(SAMPLES, 0.2).again) == (0.75, 0.5)


def test_a_threshold_is_the_least_that_keeps_the_gain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loaded = load(tiny.save(tmp_path / "m", "gla"))
    reader = Reader(loaded, template="cq")
    waiting = list(SAMPLES * 6)
    monkeypatch.setattr(calibration, "samples_of", lambda *_, **__: list(waiting))
    found, samples = calibrate(reader, [])
    assert len(samples) == 24 and found.rows == 24
    assert (found.once.recall, found.most.recall, found.auto.recall) == (0.25, 0.75, 0.75)
    assert 0.1 < found.threshold <= 0.8 and found.auto.again < 1
    assert threshold_of(reader, 2) == (THRESHOLD, False)
    place = keep(reader, found)
    assert threshold_of(reader, 2) == (found.threshold, True)
    assert threshold_of(reader, 3) == (THRESHOLD, False)
    assert threshold_of(Reader(loaded, template="qcq"), 2) == (THRESHOLD, False)
    place.write_text('{"threshold": "high"}')
    assert threshold_of(reader, 2) == (THRESHOLD, False)
    waiting[:] = [SAMPLES[1], SAMPLES[3]] * 10
    nothing_gained, _ = calibrate(reader, [])
    assert nothing_gained.threshold == -1 and nothing_gained.auto.again == 0
    keep(reader, nothing_gained)
    assert threshold_of(reader, 2) == (-1.0, True)
    waiting[:] = SAMPLES
    with pytest.raises(UsageError, match="at least 20"):
        calibrate(reader, [])


def test_a_sample_is_what_the_readings_gave(tmp_path: Path) -> None:
    loaded = load(tiny.save(tmp_path / "m", "based"))
    reader = Reader(loaded, template="cq")
    every = list(readings(first_reader(reader), WORDS, "who?", max_new_tokens=4))
    seen: list[int] = []
    rows = [(WORDS, "who?", [every[1].answer.text or "?"]), (WORDS * 2, "where?", ["?"])]
    found, _ = samples_of(reader, rows, max_new_tokens=4, on_row=seen.append)
    assert seen == [1, 2]
    assert found.tokens == (every[0].tokens, every[0].tokens + every[1].tokens)
    assert found.margin == pytest.approx(tuple(one.margin for one in every), abs=1e-4)
    assert found.recall[1] == float(bool(every[1].answer.text))
