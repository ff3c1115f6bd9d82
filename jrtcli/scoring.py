"""How probable a model finds the tokens of a text, each after all before it, piece by piece.

Symbols: B rows, T tokens, V rows of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from jrtcli.generate import Overflowed

if TYPE_CHECKING:
    from jrtcli.models.base import RecurrentLM


def log_probabilities(
    model: RecurrentLM, tokens: Tensor, *, start: int = 1, encoder_length: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Natural logarithms of the probabilities of tokens (B, T) from position `start` on, in pieces.

    Yields (position of the first, (B, n) on the CPU), n of at most about a prefill piece, so that the memory
    for logits does not grow with T. encoder_length: of JRT-RNN, at most `start`, for what it reads non-
    causally it cannot predict; None: the model's own rule; 0: none. Raises Overflowed where the logits are
    not numbers, ValueError for a start past the first token or an encoder past the start.
    """
    rows, length = tokens.shape
    if start < 1:
        raise ValueError(f"start {start}: the first token follows nothing")
    if encoder_length is not None and encoder_length > start:
        raise ValueError(f"an encoder of {encoder_length} tokens reaches past the start, {start}")
    if start >= length:
        return
    options: dict[str, Any] = {} if encoder_length is None else {"encoder_length": encoder_length}
    logits, state = model.prefill(tokens[:, :start], **options)
    yield start, chosen(logits[:, None], tokens[:, start : start + 1])
    at, size = start, max(1, model.prefill_tokens // rows)
    while at < length - 1:
        end = min(at + size, length - 1)
        logits, state = model.forward_from(tokens[:, at:end], state)
        yield at + 1, chosen(logits, tokens[:, at + 1 : end + 1])
        at = end


def chosen(logits: Tensor, tokens: Tensor) -> Tensor:
    """logits (B, n, V), tokens (B, n) -> log-probability of each (B, n), on the CPU. Raises Overflowed."""
    tokens = tokens.to(logits.device)
    found = (logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(-1)).cpu()
    if bool(found.isnan().any()):
        raise Overflowed
    return found


def unseen(model: RecurrentLM, length: int, skip: int) -> tuple[int, int | None]:
    """Where scoring begins in a sequence of `length` tokens of which the first `skip` do not count, and the
    encoder length of JRT-RNN there: its encoder sees what it reads, so only what follows can be scored.

    An encoder of a trained length reads that; one of any length, `skip` tokens, or half of the sequence.
    """
    if not model.has_encoder:
        return max(1, skip), None
    limit = getattr(model.config, "enc_length", None)
    if limit is not None:
        return max(limit, skip), None
    half = max(1, skip or length // 2)
    return half, half
