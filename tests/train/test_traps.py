"""Traps: near-miss fields, field names without a value, page furniture; and still one answer per question."""

from __future__ import annotations

import itertools

from jrtcli.train import traps
from jrtcli.train.documents import sheets
from jrtcli.train.values import Draw
from jrtcli.train.words import field_names, reserved


def test_near_fields_share_a_word_and_keep_to_their_side() -> None:
    d = Draw(0)
    for held_out in (False, True):
        listed = field_names(held_out).listed
        for _ in range(1000):
            key, kind = d.of(listed)
            near, _ = traps.near(d, key, kind, held_out)
            assert near != key or " " not in key
            assert set(near.split()) & set(key.split())
            assert all(reserved(word) == held_out for word in near.replace("-", " ").split()), near


def test_a_mention_has_no_place_for_a_value() -> None:
    d = Draw(1)
    made = [traps.mention(d, "lot number") for _ in range(500)]
    assert sum("lot number" in text for text in made) > 150
    assert not any("{" in text or "\n" in text for text in made)


def test_many_training_documents_have_two_fields_that_differ_by_a_word() -> None:
    def near(keys: list[str]) -> bool:
        return any(f" {a}".endswith(f" {b}") or a.startswith(f"{b} ") for a in keys for b in keys if a != b)

    made = list(itertools.islice(sheets(3, length_chars=700), 300))
    share = sum(near([fact.key for fact in sheet.facts]) for sheet in made) / len(made)
    assert 0.1 < share < 0.6


def test_questions_name_one_field_of_the_document() -> None:
    for sheet in itertools.islice(sheets(4, length_chars=700), 400):
        keys = {fact.key for fact in sheet.facts}
        for fact in sheet.facts:
            asked = fact.question.lower()
            longer = {key for key in keys if fact.key in key and key != fact.key and key in asked}
            assert not longer, (fact, longer)
