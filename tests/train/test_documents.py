"""The generator: spans, determinism, one answer per question, splits that share nothing they should not."""

from __future__ import annotations

import hashlib
import itertools

import pytest

from jrtcli.train.documents import SPLITS, FactSheet, kinds, measure, sheets, suited_kinds
from jrtcli.train.sheet import field_name
from jrtcli.train.values import MAKERS, WIDE, Draw, value
from jrtcli.train.wordings import wordings
from jrtcli.train.words import OPEN, field_names, reserved

PROSE = (
    "The ship left the harbour before dawn, and nobody saw it go.",
    "Nothing else was said that evening.",
)


def first(n: int, **kwargs: object) -> list[FactSheet]:
    return list(itertools.islice(sheets(**kwargs), n))  # type: ignore[arg-type]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("length", [150, 1200])
def test_every_fact_has_its_exact_span(split: str, length: int) -> None:
    for sheet in first(150, seed=3, split=split, length_chars=length, prose=PROSE):
        assert sheet.facts
        for fact in sheet.facts:
            assert sheet.text[fact.start : fact.end] == fact.value
            assert fact.value == fact.value.strip() != ""
            assert "\n" not in fact.value and "\n" not in fact.question
            assert "{" not in fact.question.replace(fact.key, "")


@pytest.mark.parametrize("split", SPLITS)
def test_a_question_is_asked_once_per_sheet(split: str) -> None:
    for sheet in first(300, seed=5, split=split, length_chars=900):
        questions = [fact.question for fact in sheet.facts]
        keys = [fact.key for fact in sheet.facts]
        assert len(set(keys)) == len(keys)
        assert len(set(questions)) == len(questions)


def test_same_arguments_same_stream_and_other_seed_other_stream() -> None:
    again = first(20, seed=1, length_chars=400)
    assert first(20, seed=1, length_chars=400) == again
    assert first(20, seed=2, length_chars=400) != again
    assert first(20, seed=1, split="heldout", length_chars=400) != again


def test_lengths_follow_the_request() -> None:
    for length in (300, 3000):
        mean = sum(len(sheet.text) for sheet in first(100, seed=0, length_chars=length)) / 100
        assert 0.9 * length < mean < 1.5 * length


def test_held_out_kinds_and_layouts_are_disjoint() -> None:
    ours, theirs = kinds(False) + suited_kinds(), kinds(True)
    assert not {kind.name for kind in ours} & {kind.name for kind in theirs}
    assert not {layout for k in ours for layout in k.layouts} & {
        layout for k in theirs for layout in k.layouts
    }
    assert len(ours) >= 80
    seen = {sheet.kind for sheet in first(400, seed=9, length_chars=200)}
    assert seen <= {kind.name for kind in ours} and len(seen) >= 60
    assert {s.kind for s in first(50, seed=9, split="heldout-kinds")} <= {kind.name for kind in theirs}


def test_held_out_field_names_share_no_word_with_training() -> None:
    d = Draw(0)
    ours = {field_name(d, False)[0] for _ in range(4000)}
    theirs = {field_name(d, True)[0] for _ in range(4000)}
    assert not ours & theirs
    assert not any(reserved(word) for name in ours for word in name.replace("-", " ").split())
    assert all(reserved(word) for name in theirs for word in name.replace("-", " ").split())
    assert len(ours) > 2500 and len(theirs) > 2000
    assert "510k number" in dict(field_names(False).listed) and "applicant" in OPEN


def test_held_out_wordings_are_disjoint() -> None:
    ours, theirs = wordings(False), wordings(True)
    for name in ours._fields:
        assert getattr(theirs, name), name
        assert not set(getattr(ours, name)) & set(getattr(theirs, name)), name


def test_single_factor_splits_change_one_factor() -> None:
    names = {kind.name for kind in kinds(False) + suited_kinds()}
    for split in ("heldout-fields", "heldout-wordings"):
        assert {sheet.kind for sheet in first(50, seed=4, split=split, length_chars=200)} <= names
    for sheet in first(60, seed=4, split="heldout-wordings", length_chars=300):
        for fact in sheet.facts:
            of = fact.key.split(" of ")[0]
            if fact.question.strip("?:.").lower() == fact.key:
                assert not any(reserved(word) for word in of.split())


def test_real_sentences_are_used_when_given() -> None:
    texts = [sheet.text for sheet in first(100, seed=0, length_chars=800, prose=PROSE)]
    assert sum(PROSE[1] in text for text in texts) > 20


def test_values_are_wide() -> None:
    d = Draw(1)
    for kind in MAKERS:
        made = {value(d, kind) for _ in range(200)}
        assert len(made) > 50, kind


def test_training_values_are_wider_and_mostly_short() -> None:
    d = Draw(2)
    for kind, maker in WIDE.items():
        made = {maker(d) for _ in range(200)}
        assert len(made) > 25, kind
        assert all(text and "\n" not in text for text in made), kind
    words = [len(f.value.split()) for sheet in first(300, seed=8, length_chars=600) for f in sheet.facts]
    assert sum(n <= 5 for n in words) > 0.75 * len(words)
    assert sum(n > 5 for n in words) > 0.03 * len(words)
    assert max(words) <= 20


def test_fields_that_suit_a_kind_of_document_come_with_it() -> None:
    suited = {kind.name: {name for name, _ in kind.fields} for kind in suited_kinds()}
    assert min(len(names) for names in suited.values()) >= 8
    sheets_ = [sheet for sheet in first(400, seed=6, length_chars=600) if sheet.kind in suited]
    assert 120 < len(sheets_) < 220
    own = sum(fact.key in suited[sheet.kind] for sheet in sheets_ for fact in sheet.facts)
    assert own > 0.5 * sum(len(sheet.facts) for sheet in sheets_)


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(KeyError):
        next(sheets(0, split="test"))


def test_the_generator_measures_itself() -> None:
    assert measure(0.05) > 10_000


def test_what_is_held_out_stays_as_it_was() -> None:
    made = first(100, seed=11, split="heldout", length_chars=700, prose=PROSE)
    digest = hashlib.sha256("".join(sheet.text + repr(sheet.facts) for sheet in made).encode()).hexdigest()
    assert digest[:16] == "82510e01285ce655"


def test_training_documents_show_nothing_of_the_held_out_wordings() -> None:
    theirs = wordings(True)
    opened = [before.split("{K}")[0] for before, _ in theirs.sentences if "{K}" in before]
    openings = [text for text in opened if text.count(" ") >= 2 and not text.startswith("The ")]
    separators = tuple(before.replace("{K}", "") for before, _ in theirs.lines if before.startswith("{K}"))
    asking = tuple(head + " " for head in theirs.asking)
    for sheet in first(1500, seed=21, length_chars=700):
        assert not any(text in sheet.text for text in openings)
        for fact in sheet.facts:
            before = sheet.text[: fact.start]
            bracketed = before.endswith(" [") and sheet.text[fact.end :].startswith("]")
            assert bracketed or not before.endswith(separators), (sheet.text, fact)
            assert not bracketed, (sheet.text, fact)
            assert not fact.question.lower().replace(fact.key, "").startswith(asking), fact.question
