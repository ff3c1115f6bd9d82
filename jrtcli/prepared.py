"""Prepared: one question's prompt, encoded and filled, not yet read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jrtcli.ahead import encoder_limit, encoder_tokens, shared_tokens
from jrtcli.fill import Filled, fill

if TYPE_CHECKING:
    from jrtcli.checkpoint import Loaded
    from jrtcli.state import State
    from jrtcli.tokens import PromptIds


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


def whole(loaded: Loaded, encoded: PromptIds, way: str, *, given: bool = False) -> Request:
    """A whole prompt, to be read from nothing. way: of jrtcli.fill.WAYS, for an encoder of fixed length.
    given: the prompt is as it is, by no template: nothing tells its parts, and an encoder of any length takes
    all of it."""
    encoder, shared = _encoder_length(loaded, encoded, given), shared_tokens(encoded)
    if shared < encoder_tokens(loaded.model, encoder):
        shared = 0
    return Request(_filled(loaded, encoded, way), encoder, shared=shared)


def _encoder_length(loaded: Loaded, encoded: PromptIds, given: bool) -> int | None:
    """For an encoder of any length: to the end of the last reading; None: the model's own rule."""
    if not loaded.model.has_encoder or encoder_limit(loaded.model) is not None:
        return None
    return len(encoded.ids) if given else encoded.head_tokens


def _filled(loaded: Loaded, encoded: PromptIds, way: str) -> Filled:
    limit = encoder_limit(loaded.model)
    if limit is None:
        return Filled(list(encoded.ids))
    start, end = body(encoded)
    space = loaded.tokenizer.encode(" ", first=False)
    return fill(encoded.ids, encoded.ids[start:end], length=limit, way=way, pad_id=space[-1] if space else 0)


def body(encoded: PromptIds) -> tuple[int, int]:
    """Where the last reading of the document begins and ends."""
    span = next(span for span in reversed(encoded.spans) if span.role == "context")
    return span.start, span.end
