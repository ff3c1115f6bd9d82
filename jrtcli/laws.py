"""The laws a model must keep, checked on a loaded one: split anywhere, and alone or together.

Libraries have broken both without an error, so the check runs on the user's own checkpoint, on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jrtcli.models.base import RecurrentLM
    from jrtcli.state import State

TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2, "float64": 1e-9}
"""Relative RMS difference of logits and states that rounding explains, by the dtype of the weights."""

LENGTHS = (150, 67, 9)
ENCODER_TOKENS = 24


@dataclass(frozen=True)
class Check:
    """One way to read the same tokens, against reading them at once.

    logits, state: relative RMS differences; same_token: whether the most probable token is the same.
    """

    law: str
    way: str
    logits: float
    state: float
    same_token: bool
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether rounding explains the difference. NaN does not pass."""
        return self.logits <= self.tolerance and self.state <= self.tolerance


def check(model: RecurrentLM, *, dtype: str, tokens: int | None = None, seed: int = 0) -> Iterator[Check]:
    """Read random tokens in many ways and compare. `tokens`: ids to draw from, None for all rows."""
    random = torch.Generator().manual_seed(seed)
    high = min(tokens or model.vocab_size, model.vocab_size)
    rows = [torch.randint(high, (n,), generator=random).to(model.device) for n in LENGTHS]
    encoder: dict[str, Any] = {"encoder_length": ENCODER_TOKENS} if model.has_encoder else {}
    first = ENCODER_TOKENS if model.has_encoder else 0
    tolerance = TOLERANCE.get(dtype, TOLERANCE["float32"])

    whole = model.prefill(rows[0][None], **encoder)
    for way, sizes in (
        ("in halves", [75]),
        ("in pieces of 1, 2, 3, ... tokens", list(range(1, 17))),
        ("all but the last 40 at once, then token by token", [110, *[1] * 40]),
    ):
        logits, state = _in_pieces(model, rows[0], sizes, first, encoder)
        yield _compare("split anywhere", way, whole, (logits, state), tolerance)

    each = [whole, *(_alone(model, row, encoder) for row in rows[1:])]
    together = {
        "three lengths, right padding": _right_padded(model, rows, encoder),
        "three lengths, packed": _packed(model, rows, encoder),
    }
    if not model.keeps_padding:
        together["three lengths, left padding"] = _left_padded(model, rows)
    for way, (logits, state) in together.items():
        worst = max(
            (
                _compare("alone or together", way, one, (logits[i : i + 1], state.select([i])), tolerance)
                for i, one in enumerate(each)
            ),
            key=lambda check: (not check.passed, check.logits),
        )
        yield worst


def _alone(model: RecurrentLM, row: Tensor, encoder: dict[str, Any]) -> tuple[Tensor, State]:
    return model.prefill(row[None], **_covered(encoder, len(row)))


def _covered(encoder: dict[str, Any], tokens: int) -> dict[str, Any]:
    return {name: min(length, tokens) for name, length in encoder.items()}


def _in_pieces(
    model: RecurrentLM, row: Tensor, sizes: list[int], first: int, encoder: dict[str, Any]
) -> tuple[Tensor, State]:
    """Read a row in pieces of these sizes and the rest at once; JRT-RNN's encoder region is one piece."""
    cut = sizes[0] if not first else max(first, sizes[0])
    logits, state = model.prefill(row[None, :cut], **encoder)
    for size in sizes[1:]:
        if cut < len(row):
            piece = row[None, cut : cut + size]
            if size == 1:
                logits, state = model.step(piece[:, 0], state)
            else:
                logits, state = model.prefill(piece, state)
            cut += size
    if cut < len(row):
        logits, state = model.prefill(row[None, cut:], state)
    return logits, state


def _encoders(model: RecurrentLM, rows: list[Tensor], encoder: dict[str, Any]) -> dict[str, Any]:
    lengths = [min(length, len(row)) for row in rows for length in encoder.values()]
    return {"encoder_length": torch.tensor(lengths, device=model.device)} if encoder else {}


def _right_padded(model: RecurrentLM, rows: list[Tensor], encoder: dict[str, Any]) -> tuple[Tensor, State]:
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    return model.prefill(tokens, lengths=lengths, **_encoders(model, rows, encoder))


def _left_padded(model: RecurrentLM, rows: list[Tensor]) -> tuple[Tensor, State]:
    width = max(len(row) for row in rows)
    pads = [torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows]
    keep = [torch.arange(width, device=model.device) >= width - len(row) for row in rows]
    return model.prefill(torch.stack(pads), mask=torch.stack(keep))


def _packed(model: RecurrentLM, rows: list[Tensor], encoder: dict[str, Any]) -> tuple[Tensor, State]:
    bounds = torch.tensor([0, *(len(row) for row in rows)], device=model.device).cumsum(0)
    return model.prefill(torch.cat(rows)[None], cu_seqlens=bounds, **_encoders(model, rows, encoder))


def _compare(
    law: str, way: str, expected: tuple[Tensor, State], got: tuple[Tensor, State], tolerance: float
) -> Check:
    states = []
    for a, b in zip(expected[1].layers, got[1].layers, strict=True):
        for name in a:
            width = a[name].shape[1] if a[name].dim() > 1 else 0
            # A key-value cache of a batch is as long as its longest row, right-aligned.
            states.append((a[name], b[name][:, -width:] if width else b[name]))
    return Check(
        law,
        way,
        relative_rms([(expected[0], got[0])]),
        relative_rms(states),
        bool((expected[0].argmax(-1) == got[0].argmax(-1)).all()),
        tolerance,
    )


def relative_rms(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """The largest over the pairs of RMS(b - a) / RMS(a); 0 where both are zero."""
    worst = 0.0
    for a, b in pairs:
        if a.numel() == 0 or not a.is_floating_point():
            continue
        difference = (b.double() - a.double()).square().mean().sqrt()
        size = a.double().square().mean().sqrt()
        value = float(difference) if float(size) == 0 else float(difference / size)
        if not value <= worst:  # also true for NaN
            worst = value
    return worst
