"""Reading: a document in front of a reader, its shared part read once, here or in an earlier run."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jrtcli.errors import NotResumable, StateError, UsageError
from jrtcli.rereading import Rereading, readings
from jrtcli.state_cache import LEAST_TOKENS, CacheUnavailable

if TYPE_CHECKING:
    from jrtcli.ahead import Ahead
    from jrtcli.answer import Answer, Asking
    from jrtcli.document import DocumentState
    from jrtcli.prepared import Prepared
    from jrtcli.reader import Reader
    from jrtcli.rereading import Again
    from jrtcli.source import Document
    from jrtcli.state import State
    from jrtcli.state_cache import StateCache


class Reading:
    """A document in front of a reader.

    state: what was read of it before, by this reader's model and template; None: looked for in the `cache`,
    if there is one, and kept there by `keep`. Templates that share nothing between questions are read whole,
    each time. Attributes: `cached`, whether the state came from the cache; `kept_bytes`, of the file that
    `keep` made; `warning`, why the cache was of no use, if so. again: read again where an answer is unsure,
    with a reader of the first readings; `rereading` then has what came of the last question.
    """

    def __init__(
        self,
        reader: Reader,
        document: Document,
        *,
        state: DocumentState | None = None,
        cache: StateCache | None = None,
        again: Again | None = None,
    ) -> None:
        self.reader, self.document, self.state = reader, document, state
        self.again = again
        self.rereading: Rereading | None = None
        self.warning: str | None = None
        self.kept_bytes = 0
        self.cached = False
        self._cache = cache if state is None else None
        self._states: list[State] = []
        self._started = self._seconds = 0.0
        if self._cache is not None:
            self._find(self._cache)

    @cached_property
    def ahead(self) -> Ahead | None:
        """What can be read before a question is known; None where nothing can."""
        with suppress(UsageError, NotResumable):
            return self.reader.ahead(self.document)
        return None

    def _find(self, cache: StateCache) -> None:
        if self.ahead is None or self.ahead.tokens < LEAST_TOKENS:
            self._cache = None
            return
        try:
            self.state = cache.get(self.ahead.identity, self.reader.loaded)
        except CacheUnavailable as error:
            self.warning, self._cache = str(error), None
        except StateError as error:
            self.warning = f"a state in the cache is not used and will be replaced: {error}"
        if self.state is not None:
            self.cached, self._cache = True, None

    @property
    def source(self) -> str | DocumentState:
        """What a reader is to be asked about: the state where there is one."""
        return self.document.text if self.state is None else self.state

    def ask(self, question: str, **options: Any) -> Asking | Rereading:
        """The answer to one question, token by token; what it reads first can be kept. Options of
        Reader.ask."""
        self._started = time.perf_counter()
        on_read = self._on_read if self._cache is not None and self.state is None else None
        if self.again is not None:
            most = self.again.most
            passes = readings(self.reader, self.source, question, most=most, on_read=on_read, **options)
            self.rereading = Rereading(passes, self.again)
            return self.rereading
        return self.reader.ask(self.source, question, on_read=on_read, **options)

    def _on_read(self, state: State) -> None:
        self._states.append(state)
        self._seconds = time.perf_counter() - self._started

    def read(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Read what all questions share, if there is anything and it was not read before."""
        if self.state is None and self.ahead is not None:
            self.state = self.reader.read(self.ahead, on_progress=on_progress)

    def prepare(self, question: str) -> Prepared:
        """One of many questions, to be answered from what `read` left."""
        return self.reader.prepare(self.source, question)

    def keep(self) -> None:
        """Put what was read here into the cache, if it is worth a place; `warning` says why it could not
        be."""
        cache, ahead, state = self._cache, self.ahead, self.state
        if cache is None or ahead is None:
            return
        if state is None:
            if len(self._states) != len(ahead.parts):
                return  # interrupted before the end
            state = ahead.state(self._states, self._seconds)
        self._cache, self._states = None, []
        try:
            self.kept_bytes = cache.put(state)
        except StateError as error:
            self.warning = str(error)

    def reuse(self, answer: Answer) -> dict[str, Any] | None:
        """What an answer reused: tokens, out of how many, and from where (a file, or None: read in this run
        for all questions); None where nothing was."""
        if not answer.reused_tokens or self.state is None:
            return None
        total = answer.reused_tokens + answer.read_tokens
        return {"reused_tokens": answer.reused_tokens, "tokens": total, "file": self.state.origin}
