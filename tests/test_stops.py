"""Stop strings end an answer wherever the tokens happen to be cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from jrtcli.stops import StopStrings


def feed(stops: list[str], chunks: list[str]) -> tuple[str, bool]:
    filter_ = StopStrings(stops)
    shown = ""
    for chunk in chunks:
        shown += filter_.push(chunk)
        if filter_.stopped:
            return shown, True
    return shown + filter_.flush(), False


def test_a_stop_string_over_two_tokens_is_never_shown() -> None:
    assert feed(["\n\n"], ["one\n", "\ntwo"]) == ("one", True)


def test_what_only_looked_like_a_stop_string_is_shown_after_all() -> None:
    assert feed(["END"], ["the E", "N", "gine"]) == ("the ENgine", False)
    assert feed(["END"], ["the EN"]) == ("the EN", False)


def test_the_earliest_of_several_ends_it() -> None:
    assert feed(["zz", "b"], ["abzz"]) == ("a", True)


def test_no_stop_strings_pass_everything() -> None:
    assert feed([], ["a", "\n", "b"]) == ("a\nb", False)


@given(
    text=st.text(alphabet="ab\n", max_size=30),
    stops=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=3), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=6),
)
def test_the_cuts_do_not_matter(text: str, stops: list[str], cuts: list[int]) -> None:
    bounds = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    chunks = [text[a:b] for a, b in pairwise(bounds)]
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    shown, stopped = feed(stops, chunks)
    # A later, shorter stop string may complete first when the text comes in pieces; never is more shown.
    assert stopped == bool(found)
    if found:
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
    else:
        assert shown == text
