"""The three ways to bring a short prompt to the encoder length a JRT-RNN was trained with."""

from __future__ import annotations

import pytest

from jrtcli.errors import UsageError
from jrtcli.fill import WAYS, fill

CONTEXT = [10, 11, 12]
PROMPT = [1, 2, *CONTEXT, 3]


def test_twice_puts_the_document_in_front_and_pads_the_rest() -> None:
    filled = fill(PROMPT, CONTEXT, length=12, way="twice", pad_id=0)
    assert filled.ids == [0, 0, 0, *CONTEXT, *PROMPT]
    assert filled.mask == [False] * 3 + [True] * 9
    assert (filled.repeated_tokens, filled.padding_tokens, filled.reencode) == (3, 3, False)


def test_twice_keeps_the_end_of_a_document_that_is_too_long() -> None:
    filled = fill(PROMPT, CONTEXT, length=8, way="twice", pad_id=0)
    assert filled.ids == [11, 12, *PROMPT]
    assert filled.mask is None


def test_pad_masks_what_is_not_the_prompt() -> None:
    filled = fill(PROMPT, CONTEXT, length=8, way="pad", pad_id=7)
    assert filled.ids == [7, 7, *PROMPT]
    assert filled.mask == [False, False] + [True] * 6


def test_iterate_adds_nothing_and_reads_again() -> None:
    filled = fill(PROMPT, CONTEXT, length=8, way="iterate", pad_id=7)
    assert filled.ids == PROMPT and filled.mask is None and filled.reencode


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("length", [1, 6])
def test_a_prompt_as_long_as_the_encoder_stays_as_it_is(way: str, length: int) -> None:
    filled = fill(PROMPT, CONTEXT, length=length, way=way, pad_id=7)
    assert filled.ids == PROMPT and filled.mask is None and not filled.reencode


def test_another_way_is_an_error_that_names_the_three() -> None:
    with pytest.raises(UsageError, match="twice, pad, iterate"):
        fill(PROMPT, CONTEXT, length=8, way="thrice", pad_id=7)
