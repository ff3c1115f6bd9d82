"""Many beginnings read at once, packed: of documents, for their questions to share, and of first readings,
for second ones to go on from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jrtcli.document import DocumentState
from jrtcli.errors import JrtError

if TYPE_CHECKING:
    from jrtcli.ahead import Ahead
    from jrtcli.models.base import RecurrentLM
    from jrtcli.prepared import Request
    from jrtcli.state import State


@dataclass(frozen=True)
class Read:
    """What was read of one request: the state after it (one row), and its share of the seconds."""

    state: State
    seconds: float


def read_on(model: RecurrentLM, requests: Sequence[Request]) -> list[Read | None]:
    """The state after each request; None for one that cannot be read so, as `read_together` says."""
    if not requests:
        return []
    started = time.perf_counter()
    try:
        state = _prefill(model, requests)
    except (JrtError, MemoryError, RuntimeError):
        if len(requests) == 1:
            return [None]
        half = len(requests) // 2
        return read_on(model, requests[:half]) + read_on(model, requests[half:])
    per_token = (time.perf_counter() - started) / sum(request.tokens for request in requests)
    return [Read(state.select([row]), per_token * request.tokens) for row, request in enumerate(requests)]


def read_together(model: RecurrentLM, aheads: Sequence[Ahead]) -> list[DocumentState | None]:
    """The state of each document; None for one that cannot be read so (its memory does not suffice, its
    numbers overflow): what is wrong with it comes out where its rows are answered.
    """
    if not aheads:
        return []
    try:
        return _packed(model, aheads)
    except (JrtError, MemoryError, RuntimeError):
        # Smaller packs: for want of memory, or to find the document to blame.
        if len(aheads) == 1:
            return [None]
    half = len(aheads) // 2
    return read_together(model, aheads[:half]) + read_together(model, aheads[half:])


def _packed(model: RecurrentLM, aheads: Sequence[Ahead]) -> list[DocumentState | None]:
    started = time.perf_counter()
    parts = [part for ahead in aheads for part in ahead.parts]
    state = _prefill(model, parts)
    per_token = (time.perf_counter() - started) / sum(part.tokens for part in parts)
    made: list[DocumentState | None] = []
    at = 0
    for ahead in aheads:
        states = [state.select([row]) for row in range(at, at + len(ahead.parts))]
        at += len(ahead.parts)
        made.append(ahead.state(states, per_token * ahead.tokens))
    return made


def _prefill(model: RecurrentLM, requests: Sequence[Request]) -> State:
    """The states after all requests, a row for each."""
    import torch

    from jrtcli.state import State

    ids = [request.filled.ids for request in requests]
    options: dict[str, Any] = {}
    if any(request.encoder_length is not None for request in requests):
        lengths = [request.encoder_length or 0 for request in requests]
        options["encoder_length"] = torch.tensor(lengths, device=model.device)
    if len(requests) > 1:
        bounds = torch.tensor([0, *map(len, ids)], device=model.device)
        options["cu_seqlens"] = bounds.cumsum(0)
    before = None
    if any(request.state is not None for request in requests):
        fresh = model.init_state(1)
        before = State.concat([request.state or fresh for request in requests])
    tokens = torch.tensor([token for row in ids for token in row], device=model.device)[None]
    with torch.no_grad():
        return model.prefill(tokens, before, **options)[1]
