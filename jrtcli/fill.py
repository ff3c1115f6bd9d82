"""What stands before a prompt shorter than the encoder a JRT-RNN was trained with (paper, Table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jrtcli.errors import UsageError

WAYS = {
    "twice": "the document once more in front, then left padding if it is still short (Table 4, the best)",
    "pad": "left padding, masked as published (Table 4, the published default)",
    "iterate": "no filling: prompt and answer are encoded anew for every token (Table 4)",
}
"""Name -> what it does. The first is the default."""


@dataclass(frozen=True)
class Filled:
    """A prompt as the model reads it.

    ids: all tokens; mask: False at padding, None without padding; repeated_tokens: of the document, put in
    front; padding_tokens: masked tokens in front of these; reencode: read everything anew for every token.
    """

    ids: list[int]
    mask: list[bool] | None = None
    repeated_tokens: int = 0
    padding_tokens: int = 0
    reencode: bool = False


def fill(ids: Sequence[int], context: Sequence[int], *, length: int, way: str, pad_id: int) -> Filled:
    """Bring a prompt of fewer than `length` tokens to the trained encoder length; longer ones stay.

    Args:
        ids: the whole prompt.
        context: the document's tokens in it, the filling of `twice`; if it is too long its end is taken, so
            that the two readings follow each other without a gap.
        length: tokens of the trained encoder.
        way: a name of WAYS.
        pad_id: the published padding token, a single space.

    Raises UsageError for a way that does not exist.
    """
    if way not in WAYS:
        raise UsageError(f"no fill {way!r}: choose {', '.join(WAYS)}")
    missing = length - len(ids)
    if missing <= 0:
        return Filled(list(ids))
    if way == "iterate":
        return Filled(list(ids), reencode=True)
    again = list(context)[-missing:] if way == "twice" else []
    padding = missing - len(again)
    mask = [False] * padding + [True] * (length - padding) if padding else None
    return Filled([pad_id] * padding + again + list(ids), mask, len(again), padding)
