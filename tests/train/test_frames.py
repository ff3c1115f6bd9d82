"""Random frames: many syntaxes, none of them held out, and values that can be told from what follows them."""

from __future__ import annotations

from jrtcli.train.frames import HELD_MARKS, draw_frame, framed, marks
from jrtcli.train.sheet import Builder, Held
from jrtcli.train.values import Draw


def framed_builder(seed: int, length: int = 900) -> Builder:
    builder = Builder(draw=Draw(seed), held=Held(), limit=length, noise=0.3, bare=0.3, case=1)
    framed(builder)
    return builder


def test_hardly_two_documents_have_the_same_syntax() -> None:
    d = Draw(0)
    frames = [draw_frame(d) for _ in range(1000)]
    seen = {(f.before, f.after, f.per_line, f.between, f.rule, f.mark(0)) for f in frames}
    assert len(seen) > 950
    assert {f.per_line for f in frames} >= {1, 2, 3, 99}
    assert sum("\n" in f.before for f in frames) > 20


def test_no_frame_has_a_held_out_mark() -> None:
    d = Draw(1)
    for _ in range(3000):
        frame = draw_frame(d)
        for text in (frame.before, frame.after, frame.between, frame.rule, marks(d)):
            assert not any(mark in text for mark in HELD_MARKS), frame
        assert " * " not in frame.before and " / " not in frame.before
        assert not frame.before.endswith("[") and "{K} / " not in frame.before
        assert "#{K}" not in frame.mark(0) + frame.before


def test_a_frame_states_every_fact_at_its_span() -> None:
    for seed in range(200):
        sheet = framed_builder(seed).sheet("x")
        assert sheet.facts
        for fact in sheet.facts:
            assert sheet.text[fact.start : fact.end] == fact.value


def test_a_value_does_not_contain_what_ends_it() -> None:
    checked = 0
    for seed in range(300):
        d = Draw(seed)
        frame = draw_frame(d)
        builder = Builder(draw=d, held=Held(), limit=0, noise=0.0, bare=0.0, case=0, stops=frame.stops)
        for _ in range(10):
            value = builder.value("list", frame.after)
            assert not any(stop in value for stop in frame.stops), (frame, value)
            checked += bool(frame.stops)
    assert checked > 1000
