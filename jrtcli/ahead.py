"""Reading ahead: how far a prompt is the same for every question, and the state of a document read so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from jrtcli.document import DocumentState
from jrtcli.errors import NotResumable, UsageError

if TYPE_CHECKING:
    from jrt_prompts import Template
    from jrtcli.models.base import RecurrentLM
    from jrtcli.prepared import Request
    from jrtcli.source import Document
    from jrtcli.state import State
    from jrtcli.state_identity import StateIdentity
    from jrtcli.tokens import PromptIds


@dataclass(frozen=True)
class Ahead:
    """What of a document can be read before a question is known.

    parts: one request, or one for each passage, each to the end of what every question has in common.
    identity: that of the state it will leave.
    """

    document: Document
    parts: tuple[Request, ...]
    identity: StateIdentity
    order: Template
    source: str

    @property
    def tokens(self) -> int:
        """Tokens to read, of all passages together."""
        return sum(part.tokens for part in self.parts)

    def read(
        self, model: RecurrentLM, on_progress: Callable[[int, int], None] | None = None
    ) -> DocumentState:
        """Read it now. on_progress: called with (tokens read, tokens to read)."""
        import torch

        started, done = time.perf_counter(), 0
        states: list[State] = []
        for part in self.parts:
            options: dict[str, Any] = {}
            if part.encoder_length is not None:
                options["encoder_length"] = part.encoder_length
            if on_progress is not None:
                options["on_progress"] = partial(_report, on_progress, done, self.tokens)
            tokens = torch.tensor([part.filled.ids], device=model.device)
            states.append(model.prefill(tokens, **options)[1])
            done += part.tokens
        return self.state(states, time.perf_counter() - started)

    def state(self, states: Sequence[State], seconds: float) -> DocumentState:
        """What the reading left: one state for each part."""
        from jrtcli.state import State

        return DocumentState(
            context=self.document.text,
            ids=tuple(token for part in self.parts for token in part.filled.ids),
            template=self.identity.template,
            reads=self.identity.reads,
            state=states[0] if len(states) == 1 else State.concat(states),
            seconds=seconds,
            identity=self.identity,
            order=self.order,
            pieces=self.document.pieces,
            source=self.source,
        )


def _report(on_progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    on_progress(before + done, total)


def shared_tokens(encoded: PromptIds) -> int:
    """Tokens up to the end of the last reading before the first question; 0 where the question comes
    first, or where nothing says where it stands (a prompt that was given whole)."""
    question = min((span.start for span in encoded.spans if span.role == "question"), default=0)
    return max((point for point in encoded.cache_points if point <= question), default=0)


def part_read(encoded: PromptIds) -> str:
    """Which of a prompt's readings `shared_tokens` are, in words."""
    shared = shared_tokens(encoded)
    return f"{sum(p <= shared for p in encoded.cache_points)} of {len(encoded.cache_points)} readings"


def encoder_tokens(model: Any, encoder_length: int | None) -> int:
    """Tokens from the first on inside which a state cannot stop: JRT-RNN's encoder reads them in one piece.

    encoder_length: as asked for; None: the model's own rule.
    """
    if not model.has_encoder:
        return 0
    return encoder_length if encoder_length is not None else encoder_limit(model) or 0


def encoder_limit(model: Any) -> int | None:
    """The fixed encoder length a JRT-RNN was trained with; None: any length, or no encoder at all."""
    return getattr(model.config, "enc_length", None) if model.has_encoder else None


def check_shared(template: Template, shared: int, encoder: int, *, fixed: bool) -> None:
    """Raises UsageError where a template shares nothing, NotResumable where `shared` tokens end inside an
    encoder of `encoder` tokens (`fixed`: by its training, not by the template)."""
    if not shared:
        raise UsageError(
            f"template {template.name} shows the question before the document:"
            " nothing can be read ahead; take cq, ccq or cqcq with --template"
        )
    if shared < encoder and fixed:
        raise NotResumable(
            f"the encoder of this model reads {encoder:,} tokens in one piece and this document gives"
            f" {shared:,} of them, so a state cannot stop there: ask without reading ahead"
        )
    if shared < encoder:
        raise NotResumable(
            f"with template {template.name} the encoder of this model reads past the first question in one"
            " piece, so a state cannot stop inside it: take template cq or ccq, whose encoder ends with the"
            " document, or ask without reading ahead"
        )
