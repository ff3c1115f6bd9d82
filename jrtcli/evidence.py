"""Evidence: where an answer stands in its document, and the document's capitals for an answer without any.

The recall tasks are verbatim: an answer that does not stand in the document is a warning of an invented one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["exact", "folded", "partial", "none"]

# Characters that mean the same, written as one class in a folded search.
_ALIKE = (
    "'\u2018\u2019\u201a\u201b\u2032\u02bc`\u00b4",
    '"\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb',
    "-\u00ad\u2010\u2011\u2012\u2013\u2014\u2015\u2212",
)
_CLASSES = {character: f"[{re.escape(group)}]" for group in _ALIKE for character in group}
# What a sentence puts around an answer, and is no part of it.
_AROUND = " \t\r\n.,;:!?'\"\u2018\u2019\u201c\u201d"
# Scripts written without spaces: every character is a word (kana, CJK, hangul).
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_LETTERS = rf"[^\W_{_UNSPACED}]+"
_WORD = re.compile(rf"[{_UNSPACED}]|{_LETTERS}(?:(?<=\d)[.,](?=\d){_LETTERS})*")  # 1,000.5 is one word
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")

LEAST_WORD = 4
"""A run of words is evidence only with a word of so many letters, or a number: "of the" stands everywhere."""


@dataclass(frozen=True)
class Grounding:
    """How much of an answer stands in its document.

    kind: "exact"; "folded": but for case, white space, quotes, dashes or punctuation around it; "partial":
    only runs of its words; "none". spans: (start, end) characters of the document: the place (the first one),
    or for "partial" one per run in the order of the answer. share: of the answer's letters and digits that
    stand in the spans, 0.0 to 1.0. count: places where an exact or folded answer stands.
    """

    kind: Kind
    spans: tuple[tuple[int, int], ...]
    share: float
    count: int

    @property
    def found(self) -> bool:
        """Whether the whole answer stands in the document."""
        return self.kind in ("exact", "folded")


NOT_FOUND = Grounding("none", (), 0.0, 0)


def grounding(answer: str, document_text: str) -> Grounding:
    """Where `answer` stands in `document_text`, as whole words: "Class II" is not found in "Class III"."""
    answer = answer.strip()
    if not answer:
        return NOT_FOUND
    for kind, pattern in _patterns(answer):
        spans = [m.span() for m in pattern.finditer(document_text) if _whole(document_text, *m.span())]
        if spans:
            return Grounding(kind, (spans[0],), 1.0, len(spans))
    return _partial(answer, document_text)


def _patterns(answer: str) -> Iterator[tuple[Kind, re.Pattern[str]]]:
    """The searches for a whole answer, the strictest first."""
    yield "exact", re.compile(re.escape(answer))
    for text in dict.fromkeys((answer, answer.strip(_AROUND))):
        if text:
            words = ("".join(_CLASSES.get(c, re.escape(c)) for c in word) for word in text.split())
            yield "folded", re.compile(r"\s+".join(words), re.IGNORECASE)


def _whole(text: str, start: int, end: int) -> bool:
    """Whether no word or number goes on over the borders of text[start:end]."""
    return not (_goes_on(text, start) or _goes_on(text, end))


def _goes_on(text: str, border: int) -> bool:
    if not 0 < border < len(text):
        return False
    before, after = text[border - 1], text[border]
    if before.isalnum() and after.isalnum():
        return not (_UNSPACED_CHARACTER.match(before) or _UNSPACED_CHARACTER.match(after))
    # 0.5 and 1,000 are one number.
    if before in ".," and after.isdigit():
        return border > 1 and text[border - 2].isdigit()
    if before.isdigit() and after in ".,":
        return border + 1 < len(text) and text[border + 1].isdigit()
    return False


def _partial(answer: str, text: str) -> Grounding:
    """The longest runs of the answer's words that stand in the document, none of them overlapping."""
    words = _WORD.findall(answer)
    runs = _longest_runs([word.lower() for word in words], text)
    found: list[tuple[int, tuple[int, int]]] = []
    covered = 0
    stretches = [(0, len(words))]
    while stretches:
        low, high = stretches.pop()
        length, first = max(((min(len(runs[i]), high - i), -i) for i in range(low, high)), default=(0, 0))
        if length == 0:
            continue
        begin, end = -first, -first + length
        stretches += [(low, begin), (end, high)]
        if any(map(_says_something, words[begin:end])):
            found.append((begin, (runs[begin][0].start(), runs[begin][length - 1].end())))
            covered += sum(map(len, words[begin:end]))
    if not found:
        return NOT_FOUND
    return Grounding("partial", tuple(span for _, span in sorted(found)), covered / sum(map(len, words)), 0)


def _says_something(word: str) -> bool:
    return (
        len(word) >= LEAST_WORD
        or any(character.isdigit() for character in word)
        or (len(word) > 1 and word.isupper())
        or _UNSPACED_CHARACTER.match(word) is not None
    )


def _longest_runs(words: list[str], text: str) -> list[list[re.Match[str]]]:
    """For each word of an answer the longest run of words from it on that stands in the text, its first."""
    places: dict[str, list[int]] = {}
    for i, word in enumerate(words):
        places.setdefault(word, []).append(i)
    tokens = list(_WORD.finditer(text))
    best = [(0, 0)] * len(words)  # (length, index of its first token)
    after: dict[int, int] = {}
    # From the end: a run from here is this word, then the run from the next token on.
    for j in range(len(tokens) - 1, -1, -1):
        here = {i: after.get(i + 1, 0) + 1 for i in places.get(tokens[j].group().lower(), ())}
        for i, length in here.items():
            if length >= best[i][0]:
                best[i] = (length, j)
        after = here
    return [tokens[j : j + length] for length, j in best]


def restore_case(text: str, document_text: str) -> str:
    """`text` with the document's capitals where it stands there, else unchanged."""
    restorer = CaseRestorer(document_text)
    return restorer.push(text) + restorer.flush()


class CaseRestorer:
    """Gives the answers of a tokenizer that knows no capitals those of the document, while they stream.

    Follows the answer along the first place in the document that agrees with everything shown so far. Where
    it leaves the document it is followed again from its next word, as it is if the document has it so. Only
    letters change, never their number. One piece is held back: what comes next tells which place is meant.
    """

    def __init__(self, document_text: str) -> None:
        self._text = _SPACE.sub(" ", document_text)
        self._folded = _fold(document_text)
        self._held = ""
        self._run: str | None = ""  # folded, what is being followed; None: inside a word that stands nowhere
        self._shown = ""  # the same as it was shown

    def push(self, piece: str) -> str:
        """The piece before this one, restored."""
        if not piece:
            return ""
        held, self._held = self._held, piece
        return self._restore(held, piece)

    def flush(self) -> str:
        """The last piece, restored."""
        held, self._held = self._held, ""
        return self._restore(held, "")

    def _restore(self, text: str, ahead: str) -> str:
        steps = [match.group() for match in _STEP.finditer(text)]
        ends = [sum(map(len, steps[: i + 1])) for i in range(len(steps))]
        return "".join(self._step(step, text[end:] + ahead) for step, end in zip(steps, ends, strict=True))

    def _step(self, step: str, ahead: str) -> str:
        """One word or the rest of one, with the white space before it; `ahead`: what is known to follow."""
        word, follows = _fold(step), _fold(ahead).rstrip()
        if self._run:
            at = self._find(self._run + word + follows, self._shown)
            if at < 0:
                at = self._find(self._run + word, self._shown)
            if at >= 0:
                return self._go_on(step, at + len(self._run))
        lead = step[: len(step) - len(step.lstrip())]
        if self._run == "" or lead:
            body = step[len(lead) :]
            self._run = self._shown = ""
            if not body:
                return step
            at = self._find(_fold(body) + follows, "") if follows else -1
            if at < 0:
                at = self._find(_fold(body), body)
            if at >= 0:
                return lead + self._go_on(body, at)
        self._run = None
        return step

    def _go_on(self, step: str, at: int) -> str:
        """Show `step` as the document has it at the character `at`, with the white space of the answer."""
        place = self._text[at : at + len(step)]
        shown = "".join(own if own.isspace() else other for own, other in zip(step, place, strict=True))
        assert self._run is not None
        self._run += _fold(step)
        self._shown += place
        return shown

    def _find(self, folded: str, shown: str) -> int:
        """The first word where `folded` begins and `shown` stands, else the first of the former, else -1."""
        first = -1
        at = self._folded.find(folded)
        while at >= 0:
            if at == 0 or not (self._text[at - 1].isalnum() and self._text[at].isalnum()):
                if self._text.startswith(shown, at):
                    return at
                first = at if first < 0 else first
            at = self._folded.find(folded, at + 1)
        return first


_SPACE = re.compile(r"\s")
_STEP = re.compile(r"\s*\S+|\s+")


def _fold(text: str) -> str:
    """Lower case, character by character, and every white space a space: positions stay."""
    lowered = text.lower()
    if len(lowered) != len(text):
        lowered = "".join(low if len(low := character.lower()) == 1 else character for character in text)
    # str.lower writes the last sigma of a word in another way, and in a stream no word is known to end.
    return _SPACE.sub(" ", lowered.replace("\u03c2", "\u03c3"))
