"""What training minimises: next-token loss on the tokens that carry weight, and the match-bit loss.

Symbols: B batch, T tokens, D model dim, V vocabulary, N positions that carry weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jrtcli.errors import UsageError

ANSWER_WEIGHT = 0.5
"""Tokens that weigh more than this are answers; plain language modelling is given less."""


def answer_masks(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens are answers, and which of them begin one. weights (B, T) -> two bool (B, T)."""
    answer = weights > ANSWER_WEIGHT
    first = answer.clone()
    first[:, 1:] &= ~answer[:, :-1]
    return answer, first


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor, total: Tensor | float) -> Tensor:
    """sum_n weights[n] * -log softmax(logits[n])[targets[n]] / total.

    logits (N, V), targets (N,), weights (N,). `total` is the sum of the weights of the whole batch, which
    is more than these N when the batch is split over devices.
    """
    loss = F.cross_entropy(logits.float(), targets, reduction="none")
    return (loss * weights).sum() / total


def balanced_binary_loss(logits: Tensor, bits: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Binary cross-entropy in which ones and zeros weigh the same, however many there are of each.

    logits (N,), bits (N,) in {0, 1}; positives, negatives: counts in the whole batch. A kind that is
    absent adds nothing. Half the mean over ones plus half the mean over zeros.
    """
    loss = F.binary_cross_entropy_with_logits(logits.float(), bits.float(), reduction="none")
    ones = (loss * bits).sum() / positives.clamp(min=1)
    zeros = (loss * (1 - bits)).sum() / negatives.clamp(min=1)
    return 0.5 * (ones + zeros)


@dataclass
class Sums:
    """Counts and sums over batches, as tensors: adding them never waits for a device."""

    loss: Any = 0.0
    tag_loss: Any = 0.0
    batches: Any = 0
    tokens: Any = 0
    answer_ce: Any = 0.0
    answers: Any = 0
    answers_right: Any = 0
    firsts: Any = 0
    firsts_right: Any = 0
    ones: Any = 0
    ones_right: Any = 0
    zeros: Any = 0
    zeros_right: Any = 0

    def add(self, other: Sums) -> None:
        """Add another batch's sums to these."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def numbers(self) -> dict[str, float]:
        """The sums as plain numbers, to be saved."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self)}

    def means(self) -> dict[str, float]:
        """What is shown: loss, ce per answer token, accuracy of answers and first tokens, balanced tags."""
        n = self.numbers()

        def ratio(part: str, whole: str) -> float:
            return n[part] / n[whole] if n[whole] else float("nan")

        shown = {
            "loss": ratio("loss", "batches"),
            "ce": ratio("answer_ce", "answers"),
            "answer": ratio("answers_right", "answers"),
            "first": ratio("firsts_right", "firsts"),
        }
        if n["ones"] and n["zeros"]:
            shown["tag"] = 0.5 * (ratio("ones_right", "ones") + ratio("zeros_right", "zeros"))
            shown["tag_loss"] = ratio("tag_loss", "batches")
        return shown


class Objective(nn.Module):
    """A model with its training losses; the match-bit head lives here and is not saved with the model.

    `tag_layer` is the index of the layer whose output the head reads.
    """

    def __init__(self, model: nn.Module, *, tag_layer: int | None, tag_weight: float, width: int) -> None:
        super().__init__()
        self.model = model
        self.tag_layer = tag_layer
        self.tag_weight = tag_weight
        self.tag_head: nn.Linear | None = None
        if tag_layer is not None and tag_weight > 0:
            self.tag_head = nn.Linear(width, 1)

    @contextmanager
    def _tap(self) -> Iterator[list[Tensor]]:
        """Collect the output of the tagged layer while the model runs."""
        seen: list[Tensor] = []
        if self.tag_head is None:
            yield seen
            return

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            seen.append(output[0] if isinstance(output, tuple) else output)

        hook = self.model.layers[self.tag_layer].register_forward_hook(keep)  # type: ignore[index, union-attr]
        try:
            yield seen
        finally:
            hook.remove()

    def forward(
        self,
        tokens: Tensor,
        weights: Tensor,
        encoder_lengths: Tensor | None,
        tags: Tensor,
        totals: Tensor,
    ) -> tuple[Tensor, Sums]:
        """The loss of these rows and their sums.

        tokens, weights, tags (B, T), encoder_lengths (B,) or None for a model without an encoder;
        totals (3,): sum of weights, ones and zeros among the tags, of the whole batch (`batch_totals`).
        """
        with self._tap() as tapped:
            if encoder_lengths is None:
                hidden = self.model.hidden(tokens)  # type: ignore[operator]
            else:
                hidden = self.model.hidden(tokens, encoder_length=encoder_lengths)  # type: ignore[operator]
        # tokens[:, t] is predicted from the state after tokens[:, :t], so it belongs to hidden[:, t - 1].
        shifted = weights[:, 1:]
        at = shifted > 0
        logits = self.model.head(hidden[:, :-1][at])  # type: ignore[operator]
        targets = tokens[:, 1:][at]
        loss = weighted_cross_entropy(logits, targets, shifted[at], totals[0].clamp(min=1e-9))
        sums = Sums(batches=1, tokens=tokens.numel())
        with torch.no_grad():
            answer, first = (mask[:, 1:][at] for mask in answer_masks(weights))
            right = logits.argmax(-1) == targets
            ce = F.cross_entropy(logits.float(), targets, reduction="none")
            sums.answer_ce = (ce * answer).sum()
            sums.answers, sums.answers_right = answer.sum(), (right & answer).sum()
            sums.firsts, sums.firsts_right = first.sum(), (right & first).sum()
        if self.tag_head is not None:
            tag_loss = self._tag_loss(tapped, tags, totals, sums)
            loss = loss + self.tag_weight * tag_loss
            sums.tag_loss = tag_loss.detach()
        sums.loss = loss.detach()
        return loss, sums

    def _tag_loss(self, tapped: list[Tensor], tags: Tensor, totals: Tensor, sums: Sums) -> Tensor:
        assert self.tag_head is not None
        at = tags >= 0
        bits = tags[at].float()
        # The residual stream grows to tens: unscaled, each step of the head would throw its scores about.
        seen = torch.cat(tapped, dim=1)[at].float()
        scores = self.tag_head(F.rms_norm(seen, seen.shape[-1:])).squeeze(-1)
        with torch.no_grad():
            right = (scores > 0) == (bits > 0)
            sums.ones, sums.ones_right = bits.sum(), (right * bits).sum()
            sums.zeros, sums.zeros_right = (1 - bits).sum(), (right * (1 - bits)).sum()
        return balanced_binary_loss(scores, bits, totals[1], totals[2])


def batch_totals(weights: Tensor, tags: Tensor) -> Tensor:
    """(3,) fp32: sum of the weights after the first token, ones, zeros. Taken before a batch is split."""
    return torch.stack([weights[:, 1:].sum().float(), (tags == 1).sum().float(), (tags == 0).sum().float()])


def find_tag_layer(model: nn.Module, index: int) -> int:
    """The layer to tap: `index`, or the first linear attention when it is negative.

    Raises UsageError when there is none.
    """
    layers: nn.ModuleList = model.layers  # type: ignore[assignment]
    if index >= 0:
        if index >= len(layers):
            raise UsageError(f"recipe: model.tag_layer is {index}, but the model has {len(layers)} layers")
        return index
    for i, block in enumerate(layers):
        if any("linearattention" in type(part).__name__.lower() for part in block.modules()):
            return i
    raise UsageError("recipe: no linear attention layer found for the match-bit loss; set model.tag_layer")
