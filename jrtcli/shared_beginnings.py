"""Prompts that begin alike: what they share is read once, and each goes on from that state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from jrtcli.fill import Filled
from jrtcli.prepared import Prepared, Request

if TYPE_CHECKING:
    from jrtcli.models.base import RecurrentLM

K = TypeVar("K")

LEAST_TOKENS = 32
"""A beginning shorter than this is read again sooner than its state is handed round."""


def share(model: RecurrentLM, items: Iterable[tuple[K, Prepared]]) -> Iterator[tuple[K, Prepared]]:
    """The same questions, those that begin alike next to each other, each to be read from where it differs.

    A state is made when the first of its prompts is asked for. Prompts of several passages, with a mask or
    with a state of their own stay as they are, and so do all of a model with an encoder: it has to read its
    region in one piece.
    """
    alike: list[tuple[K, Prepared]] = []
    for item in items:
        if model.has_encoder or not _plain(item[1]):
            yield item
        else:
            alike.append(item)
    alike.sort(key=lambda item: item[1].requests[0].filled.ids)
    at = 0
    while at < len(alike):
        end, shared = _run(alike, at)
        if shared:
            yield from _from_one_state(model, alike[at:end], shared)
        else:
            yield from alike[at:end]
        at = end


def _plain(prepared: Prepared) -> bool:
    if len(prepared.requests) != 1:
        return False
    request = prepared.requests[0]
    return (
        request.state is None
        and request.filled.mask is None
        and not request.filled.reencode
        and request.encoder_length is None
    )


def _run(items: Sequence[tuple[K, Prepared]], at: int) -> tuple[int, int]:
    """The end of the prompts from `at` on that begin alike, and the tokens they all share; 0 for none."""
    ids = items[at][1].requests[0].filled.ids
    shared = 0
    end = at + 1
    while end < len(items):
        # One token at least is left to read: its logits are the answer's first.
        found = _alike(ids, items[end][1].requests[0].filled.ids, len(ids) - 1)
        if found < LEAST_TOKENS or found * 2 < shared:
            break
        shared = min(shared, found) if shared else found
        end += 1
    return end, shared


def _alike(first: Sequence[int], second: Sequence[int], most: int) -> int:
    most = min(most, len(second) - 1)
    if first[:most] == second[:most]:
        return most
    return next(i for i in range(most) if first[i] != second[i])


def _from_one_state(
    model: RecurrentLM, items: Sequence[tuple[K, Prepared]], shared: int
) -> Iterator[tuple[K, Prepared]]:
    import torch

    ids = items[0][1].requests[0].filled.ids[:shared]
    state = model.prefill(torch.tensor([ids], device=model.device))[1]
    for key, prepared in items:
        rest = Request(Filled(prepared.requests[0].filled.ids[shared:]), None, state)
        yield key, replace(prepared, requests=(rest,), fields=_fields(prepared, shared))


def _fields(prepared: Prepared, shared: int) -> dict[str, object]:
    return prepared.fields | {
        "read_tokens": prepared.fields["read_tokens"] - shared,
        "reused_tokens": prepared.fields["reused_tokens"] + shared,
    }
