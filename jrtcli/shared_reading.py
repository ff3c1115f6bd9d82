"""Many documents read ahead at once, packed: the readings that the questions of each then share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jrtcli.document import DocumentState
from jrtcli.errors import JrtError

if TYPE_CHECKING:
    from jrtcli.ahead import Ahead
    from jrtcli.models.base import RecurrentLM


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
    import torch

    started = time.perf_counter()
    parts = [part for ahead in aheads for part in ahead.parts]
    ids = [part.filled.ids for part in parts]
    options: dict[str, Any] = {}
    if any(part.encoder_length is not None for part in parts):
        lengths = [part.encoder_length or 0 for part in parts]
        options["encoder_length"] = torch.tensor(lengths, device=model.device)
    if len(parts) > 1:
        bounds = torch.tensor([0, *map(len, ids)], device=model.device)
        options["cu_seqlens"] = bounds.cumsum(0)
    tokens = torch.tensor([token for row in ids for token in row], device=model.device)[None]
    with torch.no_grad():
        state = model.prefill(tokens, **options)[1]
    seconds = time.perf_counter() - started
    made: list[DocumentState | None] = []
    at = 0
    for ahead in aheads:
        states = [state.select([row]) for row in range(at, at + len(ahead.parts))]
        at += len(ahead.parts)
        made.append(ahead.state(states, seconds * ahead.tokens / tokens.shape[1]))
    return made
