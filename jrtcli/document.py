"""DocumentState: what a model remembers of a document, from which many questions go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jrtcli.state import State


@dataclass(frozen=True)
class DocumentState:
    """A document that was read up to its first question.

    context: its text; ids: the tokens read, which every later prompt must begin with; template and reads: the
    order they were rendered in; state: the model's memory after them; seconds: what the reading took.
    """

    context: str
    ids: tuple[int, ...]
    template: str
    reads: int
    state: State
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens read."""
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return self.state.nbytes
