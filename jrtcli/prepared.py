"""Prepared: one question's prompt, encoded and filled, not yet read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jrtcli.fill import Filled

if TYPE_CHECKING:
    from jrtcli.state import State


@dataclass(frozen=True)
class Request:
    """What a model is to read for one prompt.

    filled: the ids that come after `state`, and their mask. encoder_length: tokens JRT-RNN reads
    non-causally; None: the model's own rule. state: one row, what was read before; shared by many requests,
    never changed. shared: of the ids as many as are the same for every question, if a state can stop there; 0
    if not.
    """

    filled: Filled
    encoder_length: int | None = None
    state: State | None = None
    shared: int = 0

    @property
    def tokens(self) -> int:
        """Tokens to read."""
        return len(self.filled.ids)


@dataclass(frozen=True)
class Prepared:
    """A question ready to be answered.

    context: the document's text. requests: one, or one for each passage the document is read in. fields:
    those of jrtcli.answer.Answer that are known before anything is read.
    """

    context: str
    requests: tuple[Request, ...]
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens to read for it, all passages together."""
        return sum(request.tokens for request in self.requests)
