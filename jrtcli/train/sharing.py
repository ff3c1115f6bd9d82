"""A batch as the inputs of one process.

Every process makes the same batch, which costs little beside a step, and computes its own part of it: every
N-th row, or every N-th sequence of a pack. What a loss is divided by is counted before the batch is split, so
the parts add up to the loss of the whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jrtcli.train.loss import Inputs, batch_totals


def share(
    batch: Any, rank: int, world: int, device: torch.device | str, *, has_encoder: bool
) -> tuple[Inputs, bool]:
    """The part of process `rank` of `world`, on the device, and whether there was one for it.

    A process for which no row is left gets the first one without any weight: all have to take the step
    together. Batches have the fields of `data.Batch` or of `text_data.TextBatch`.
    """
    masked, bounds = getattr(batch, "masked", None), getattr(batch, "cu_seqlens", None)
    tokens, weights, lengths, tags = batch.tokens, batch.weights, batch.encoder_lengths, batch.tags
    totals = batch_totals(weights, tags, masked)
    count = tokens.shape[0] if bounds is None else len(bounds) - 1
    own = list(range(rank, count, world))
    idle, own = not own, own or [0]
    if world > 1:
        if bounds is None:
            tokens, weights, tags, masked = (
                None if x is None else x[own] for x in (tokens, weights, tags, masked)
            )
        else:
            spans = [(int(bounds[i]), int(bounds[i + 1])) for i in own]
            tokens, weights, tags, masked = (
                None if x is None else torch.cat([x[:, a:b] for a, b in spans], 1)
                for x in (tokens, weights, tags, masked)
            )
            sizes = torch.tensor([0, *(b - a for a, b in spans)])
            bounds = sizes.cumsum(0)
        lengths = None if lengths is None else lengths[own]
        if idle:
            weights = torch.zeros_like(weights)
            tags = None if tags is None else torch.full_like(tags, -1)
            masked = None if masked is None else torch.full_like(masked, -1)

    def there(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(device)

    return Inputs(
        tokens=tokens.to(device),
        weights=weights.to(device),
        encoder_lengths=there(lengths) if has_encoder else None,
        tags=there(tags),
        totals=totals.to(device),
        masked=there(masked),
        cu_seqlens=there(bounds),
        is_text=bool(getattr(batch, "is_text", False)),
    ), not idle
