"""Where answers stand in documents, and the document's capitals for answers without any."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrtcli.evidence import CaseRestorer, Grounding, grounding, restore_case

DOCUMENT = """A. Applicant:
Instrumentation Laboratory (IL) Co.
B. Class: Class III (not Class II)
C. Cut-off: 0.5 U/mL, range 1,000 to 2,500
D. Names: HemosIL HIT‐Ab(PF4‐H), the “Blue” kit
E. Codes: LCO, Platelet factor; GGN, Plasma
"""


def spans(result: Grounding, text: str = DOCUMENT) -> list[str]:
    return [text[start:end] for start, end in result.spans]


@pytest.mark.parametrize(
    ("answer", "kind", "found"),
    [
        ("Instrumentation Laboratory (IL) Co.", "exact", "Instrumentation Laboratory (IL) Co."),
        (" Class III\n", "exact", "Class III"),
        ("Class II", "exact", "Class II"),
        ("class iii", "folded", "Class III"),
        ("Applicant: Instrumentation   Laboratory", "folded", "Applicant:\nInstrumentation Laboratory"),
        ("HemosIL HIT-Ab(PF4-H)", "folded", "HemosIL HIT‐Ab(PF4‐H)"),
        ('the "Blue" kit', "folded", "the “Blue” kit"),
        ("Plasma.", "folded", "Plasma"),
        ("“LCO”", "folded", "LCO"),
        ("0.5", "exact", "0.5"),
        ("1,000", "exact", "1,000"),
        ("2,500.", "folded", "2,500"),
    ],
)
def test_a_whole_answer(answer: str, kind: str, found: str) -> None:
    result = grounding(answer, DOCUMENT)
    assert (result.kind, spans(result), result.share, result.count) == (kind, [found], 1.0, 1)
    assert result.found


def test_words_and_numbers_are_whole() -> None:
    assert grounding("Lab", DOCUMENT).kind == "none"
    assert grounding("5", DOCUMENT).kind == "none"  # inside 0.5
    assert grounding("000", DOCUMENT).kind == "none"  # the end of 1,000
    assert grounding("about 2,500 U", DOCUMENT).share == pytest.approx(5 / 11)
    # "Class II" also begins "Class III", which stands first and does not count.
    result = grounding("Class II", "Class III, Class II, Class II")
    assert (result.spans, result.count) == (((11, 19),), 2)
    # Scripts without spaces have no other borders than their characters.
    assert grounding("血液", "分類は血液学です").kind == "exact"


def test_exact_comes_before_folded_and_the_first_place_counts() -> None:
    result = grounding("Blue", "blue Blue BLUE Blue")
    assert (result.kind, result.spans, result.count) == ("exact", ((5, 9),), 2)
    result = grounding("bLUE", "blue Blue BLUE")
    assert (result.kind, result.spans, result.count) == ("folded", ((0, 4),), 3)


def test_parts_of_an_answer() -> None:
    result = grounding("Instrumentation Laboratory Incorporated", DOCUMENT)
    assert (result.kind, spans(result), result.count) == ("partial", ["Instrumentation Laboratory"], 0)
    assert result.share == pytest.approx(25 / 37)
    result = grounding("GGN and LCO", DOCUMENT)
    assert spans(result) == ["GGN", "LCO"]  # in the order of the answer
    assert result.share == pytest.approx(6 / 9)
    # The longest run wins, and its words are not counted again.
    result = grounding("platelet factor GGN plasma", DOCUMENT)
    assert spans(result) == ["Platelet factor; GGN, Plasma"]
    assert result.share == 1.0 and not result.found


@pytest.mark.parametrize(
    "answer", ["", " \n", "of the to", "Banana republic", "...", "ii (x)", "the the the"]
)
def test_nothing_found(answer: str) -> None:
    result = grounding(answer, "It is said of others that they were to be the ones, in a way.")
    assert result == Grounding("none", (), 0.0, 0)
    assert grounding("x", "") == Grounding("none", (), 0.0, 0)


@pytest.mark.parametrize("answer", ["(a+b)*", "[^x]", "\\d+", "a|b", "$1.50", "100 %"])
def test_an_answer_is_no_pattern(answer: str) -> None:
    assert spans(grounding(answer, f"price {answer} end"), f"price {answer} end") == [answer]
    assert grounding(answer, "nothing here").kind == "none"


@settings(deadline=None)
@given(text=st.text(alphabet="aB1 .,-\n", max_size=60), start=st.integers(0, 60), length=st.integers(1, 20))
def test_what_stands_as_whole_words_is_found(text: str, start: int, length: int) -> None:
    spaced = " ".join(text)  # every character a word of its own
    answer = spaced[start : start + length].strip()
    if not answer:
        return
    for variant in (answer, answer.swapcase(), "\n".join(answer.split())):
        result = grounding(variant, spaced)
        assert result.found
        begin, end = result.spans[0]
        assert " ".join(spaced[begin:end].split()).lower() in " ".join(answer.split()).lower()


@settings(deadline=None)
@given(answer=st.text(max_size=30), text=st.text(max_size=60))
def test_results_are_possible(answer: str, text: str) -> None:
    result = grounding(answer, text)
    assert all(0 <= start < end <= len(text) for start, end in result.spans)
    assert 0.0 <= result.share <= 1.0
    assert (result.kind == "none") == (result.share == 0.0) == (not result.spans)


def test_a_megabyte_is_fast() -> None:
    document = DOCUMENT * (1_000_000 // len(DOCUMENT)) + "The Zebra quagga"
    answers = ["zebra  quagga", "nobody known to the applicant, a class of its own", "a a a a", "Class III"]
    restorer = CaseRestorer(document)
    started = time.process_time()
    for answer in answers:
        grounding(answer, document)
    assert restorer.push("the zebra quagga") + restorer.flush() == "The Zebra quagga"
    # About 0.5 s on one slow core; quadratic work would take minutes.
    assert time.process_time() - started < 10


# --- the document's capitals ---


@pytest.mark.parametrize(
    ("answer", "restored"),
    [
        ("instrumentation laboratory (il) co.", "Instrumentation Laboratory (IL) Co."),
        (" hemosil hit‐ab(pf4‐h)", " HemosIL HIT‐Ab(PF4‐H)"),
        ("lco, ggn", "LCO, GGN"),  # leaves the document, and is followed again from the next word
        ("a. applicant: instrumentation", "A. Applicant: Instrumentation"),  # a line end is a space
        ("it is xyzzy", "it is xyzzy"),
        ("class ii", "Class II"),  # the first place, though it goes on
        ("", ""),
        ("  ", "  "),
    ],
)
def test_capitals(answer: str, restored: str) -> None:
    assert restore_case(answer, DOCUMENT) == restored


def test_what_comes_next_tells_which_place_is_meant() -> None:
    document = "classification of the class. Class II, class III. class"
    restorer = CaseRestorer(document)
    assert [restorer.push(piece) for piece in ("class", " ii", "\n")] == ["", "Class", " II"]
    assert restorer.flush() == "\n"
    # Shown once, a word stays as it was shown: a place that agrees with it is looked for first.
    restorer = CaseRestorer("Red box. red Box lid")
    assert "".join(map(restorer.push, ("red", " box", " lid"))) + restorer.flush() == "Red Box lid"


def test_a_word_known_in_small_letters_stays_so() -> None:
    assert restore_case("xyzzy is blue", "IS that so? It is BLUE") == "xyzzy is BLUE"
    assert restore_case("nit", "UNIT") == "nit"  # not from inside a word


def pieces(text: str, cuts: list[int]) -> list[str]:
    points = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(points)]


@settings(deadline=None)
@given(
    answer=st.text(alphabet="abc ABCİßΣσς\n", max_size=20),
    document=st.text(alphabet="abc ABCİßΣσς\n", max_size=40),
    cuts=st.lists(st.integers(0, 30), max_size=6),
)
def test_only_letters_change_and_at_most_one_piece_is_held(
    answer: str, document: str, cuts: list[int]
) -> None:
    restorer = CaseRestorer(document)
    shown, pushed = "", ""
    for piece in pieces(answer, cuts):
        shown += restorer.push(piece)
        assert len(shown) == len(pushed)
        pushed += piece
    shown += restorer.flush()
    assert len(shown) == len(answer)
    for ours, theirs in zip(shown, answer, strict=True):
        assert ours == theirs or ours.casefold() == theirs.casefold()


@settings(deadline=None)
@given(first=st.integers(0, 29), words=st.integers(1, 8), cuts=st.lists(st.integers(0, 80), max_size=12))
def test_a_span_of_the_document_comes_out_as_it_stands(first: int, words: int, cuts: list[int]) -> None:
    # Every first word occurs once, so whatever the pieces, only one place can be meant.
    names = [f"{('Alpha', 'BETA', 'gamma', 'dElta', 'X')[i % 5]}{chr(97 + i % 26)}{i}x" for i in range(30)]
    document = "; ".join(f"{name} of the IL-{i}" for i, name in enumerate(names))
    span = " ".join(document.split(" ")[4 * first : 4 * first + words])
    restorer = CaseRestorer(document)
    parts = pieces(span.lower(), cuts)
    # A first piece of one letter would be ambiguous: join it with its neighbour.
    while len(parts) > 1 and len(parts[0]) < len(names[first]):
        parts[:2] = [parts[0] + parts[1]]
    assert "".join(map(restorer.push, parts)) + restorer.flush() == span


def test_on_a_real_document(shared_data: Path) -> None:
    text = (shared_data / "fda510k" / "K153137_REVIEW.txt").read_text(encoding="utf-8")
    for answer in (
        "Instrumentation Laboratory (IL) Co.",
        "Anti-PF4/Heparin Total Antibodies",
        "Hematology (81)",
    ):
        assert grounding(answer, text).kind == "exact"
        assert grounding(answer.upper(), text).kind == "folded"
        assert restore_case(answer.lower(), text) == answer
    assert grounding("K153138", text).kind == "none"
