"""Long documents in passages: which passages, and the generation that goes on from the surest of them.

A model recalls best what is about as long as what it was trained on. A longer document is read in overlapping
passages, each with the question; the first token of an answer is the lookup, so the passage where that token
is most probable is the one that answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jrtcli.generate import Generation, Step

if TYPE_CHECKING:
    from jrtcli.models.base import RecurrentLM
    from jrtcli.state import State
    from jrtcli.tokens import Tokenizer

OVERLAP = 8
"""A passage shares one part in so many with the next, so that a fact at a border stands whole in one of
them."""

_WORD_CHARACTERS = 80
"""As far is a border moved to stand between words."""

_SPACE = re.compile(r"\s")


def passages(text: str, tokenizer: Tokenizer, window: int) -> list[str]:
    """The document in passages of about `window` tokens, evenly spread; itself where it is no longer than
    that.

    Borders stand between words. Raises ValueError for a window of less than one token.
    """
    if window < 1:
        raise ValueError(f"a window of {window} tokens")
    _, ends = tokenizer.encode_with_ends(text, first=True)
    if len(ends) <= window:
        return [text]
    shared = window // OVERLAP
    count = -(-(len(ends) - shared) // (window - shared))
    step = (len(ends) - window) / (count - 1)
    cut = []
    for i in range(count):
        first = round(i * step)
        start = _between_words(text, ends[first - 1]) if i else 0
        stop = _between_words(text, ends[first + window - 1]) if i < count - 1 else len(text)
        cut.append(text[start:stop])
    return [passage for passage in cut if passage.strip()]


def _between_words(text: str, at: int) -> int:
    """The next place between words, or `at` itself where there is none near."""
    if at == 0 or text[at - 1].isspace():
        return at
    found = _SPACE.search(text, at, at + _WORD_CHARACTERS)
    return found.start() if found else at


class Surest(Iterator[Step]):
    """Several generations as one: all read their prompts, the one whose first token is most probable goes on.

    says: whether a first token says something; one that says nothing gives way to any that does. Attributes
    as of Generation; prefill_seconds is the time of all prompts, `chosen` the number of the generation that
    answers, None before.
    """

    def __init__(
        self,
        generations: Sequence[Generation],
        *,
        says: Callable[[int], bool] = lambda token: True,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._generations = list(generations)
        self._says = says
        self._on_progress = on_progress
        self.chosen: int | None = None
        self.prefill_seconds = 0.0

    @property
    def model(self) -> RecurrentLM:
        """The model of all of them."""
        return self._generations[0].model

    @property
    def state(self) -> State | None:
        """Of the generation that answers."""
        return None if self.chosen is None else self._generations[self.chosen].state

    @property
    def finish_reason(self) -> str | None:
        """Of the generation that answers."""
        return None if self.chosen is None else self._generations[self.chosen].finish_reason

    def __next__(self) -> Step:
        if self.chosen is None:
            self._read()
        assert self.chosen is not None
        step = next(self._generations[self.chosen])
        # The others were read before this one could go on.
        own = self._generations[self.chosen].prefill_seconds
        return replace(step, seconds=step.seconds - own + self.prefill_seconds)

    def _read(self) -> None:
        total = sum(g.prompt_tokens for g in self._generations)
        done = 0
        sure: list[tuple[bool, float]] = []
        for generation in self._generations:
            token, probability = generation.begin()
            sure.append((token is not None and self._says(token), probability))
            self.prefill_seconds += generation.prefill_seconds
            done += generation.prompt_tokens
            if self._on_progress is not None:
                self._on_progress(done, total)
        self.chosen = max(range(len(sure)), key=sure.__getitem__)
        for i, generation in enumerate(self._generations):
            if i != self.chosen:
                generation.state = None  # only the answering one goes on
