"""What training minimises: next-token loss on the tokens that carry weight, the loss of masked tokens at
their own place, and the match-bit loss.

Symbols: B batch, T tokens, D model dim, V vocabulary, N positions that carry weight, S sequences of a pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

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
    text_ce: Any = 0.0
    text_tokens: Any = 0
    mlm_ce: Any = 0.0
    masked: Any = 0
    masked_right: Any = 0

    def add(self, other: Sums) -> None:
        """Add another batch's sums to these."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def numbers(self) -> dict[str, float]:
        """The sums as plain numbers, to be saved."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self)}

    def means(self) -> dict[str, float]:
        """What is shown: loss; ce per answer token, accuracy of answers and of their first tokens; balanced
        accuracy of tags; text: ce per token of plain text; mlm, mlm_acc: of masked tokens. What no batch had
        is left out, but for the answers of a run without text."""
        n = self.numbers()

        def ratio(part: str, whole: str) -> float:
            return n[part] / n[whole] if n[whole] else float("nan")

        shown = {"loss": ratio("loss", "batches")}
        if n["answers"] or not n["text_tokens"] + n["masked"]:
            shown |= {
                "ce": ratio("answer_ce", "answers"),
                "answer": ratio("answers_right", "answers"),
                "first": ratio("firsts_right", "firsts"),
            }
        if n["text_tokens"]:
            shown["text"] = ratio("text_ce", "text_tokens")
        if n["masked"]:
            shown |= {"mlm": ratio("mlm_ce", "masked"), "mlm_acc": ratio("masked_right", "masked")}
        if n["ones"] and n["zeros"]:
            shown["tag"] = 0.5 * (ratio("ones_right", "ones") + ratio("zeros_right", "zeros"))
            shown["tag_loss"] = ratio("tag_loss", "batches")
        return shown


class Inputs(NamedTuple):
    """What one process computes of a batch, and what its loss is divided by.

    tokens (B, T) int64; weights (B, T): of predicting tokens[b, t] from tokens[b, :t]; encoder_lengths (B,),
    or (S,) of a pack; tags (B, T) as `data.Batch` has them, None where there are none; totals: `batch_totals`
    of the whole batch, of which these may be a part. masked (B, T) int64: the true token where tokens has the
    mask token, -1 elsewhere. cu_seqlens (S + 1,): bounds of a pack, B = 1; the first token of each sequence
    has no weight. is_text: plain text, to be counted as such.
    """

    tokens: Tensor
    weights: Tensor
    encoder_lengths: Tensor | None
    tags: Tensor | None
    totals: Tensor
    masked: Tensor | None = None
    cu_seqlens: Tensor | None = None
    is_text: bool = False


class Objective(nn.Module):
    """A model with its training losses; the match-bit head lives here and is not saved with the model.

    `tag_layer` is the index of the layer whose output the head reads. `mlm_weight`: w2 of the paper's
    equation (5), (w1 NTP + w2 MLM) / (w1 + w2) with w1 = 1, for batches with masked tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        tag_layer: int | None,
        tag_weight: float,
        width: int,
        mlm_weight: float = 0.25,
    ) -> None:
        super().__init__()
        self.model = model
        self.tag_layer = tag_layer
        self.tag_weight = tag_weight
        self.mlm_weight = mlm_weight
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

    def forward(self, inputs: Inputs) -> tuple[Tensor, Sums]:
        """The loss of these inputs, divided by the totals of the whole batch, and their sums."""
        tokens, weights, masked = inputs.tokens, inputs.weights, inputs.masked
        given: dict[str, Any] = {}
        if inputs.encoder_lengths is not None:
            given["encoder_length"] = inputs.encoder_lengths
        if inputs.cu_seqlens is not None:
            given["cu_seqlens"] = inputs.cu_seqlens
        with self._tap() as tapped:
            hidden = self.model.hidden(tokens, **given)  # type: ignore[operator]
        # tokens[:, t] is predicted from the state after tokens[:, :t], so it belongs to hidden[:, t - 1].
        shifted = weights[:, 1:]
        at = shifted > 0
        picked, targets = hidden[:, :-1][at], tokens[:, 1:][at]
        predicted = len(targets)
        if masked is not None:  # a masked token is told at its own place
            here = masked >= 0
            picked, targets = torch.cat([picked, hidden[here]]), torch.cat([targets, masked[here]])
        logits = self.model.head(picked)  # type: ignore[operator]
        ce = F.cross_entropy(logits.float(), targets, reduction="none")
        ntp = (ce[:predicted] * shifted[at]).sum() / inputs.totals[0].clamp(min=1e-9)
        loss = ntp
        if masked is not None:
            mlm = ce[predicted:].sum() / inputs.totals[3].clamp(min=1)
            loss = (ntp + self.mlm_weight * mlm) / (1 + self.mlm_weight)
        sums = self._sums(inputs, logits, targets, ce.detach(), at)
        if self.tag_head is not None and inputs.tags is not None:
            tag_loss = self._tag_loss(tapped, inputs.tags, inputs.totals, sums)
            loss = loss + self.tag_weight * tag_loss
            sums.tag_loss = tag_loss.detach()
        sums.loss = loss.detach()
        return loss, sums

    @torch.no_grad()
    def _sums(self, inputs: Inputs, logits: Tensor, targets: Tensor, ce: Tensor, at: Tensor) -> Sums:
        """Counts of the predictions: those of `at`, then the masked ones."""
        sums = Sums(batches=1, tokens=inputs.tokens.numel())
        right = logits.argmax(-1) == targets
        n = int(at.sum()) if inputs.masked is not None else len(targets)
        if inputs.masked is not None:
            sums.mlm_ce, sums.masked, sums.masked_right = ce[n:].sum(), len(targets) - n, right[n:].sum()
        if inputs.is_text:
            sums.text_ce, sums.text_tokens = ce[:n].sum(), n
            return sums
        answer, first = (mask[:, 1:][at] for mask in answer_masks(inputs.weights))
        sums.answer_ce = (ce[:n] * answer).sum()
        sums.answers, sums.answers_right = answer.sum(), (right[:n] & answer).sum()
        sums.firsts, sums.firsts_right = first.sum(), (right[:n] & first).sum()
        return sums

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


def batch_totals(weights: Tensor, tags: Tensor | None, masked: Tensor | None = None) -> Tensor:
    """(4,) fp32: sum of the weights after the first token, ones and zeros of tags, masked tokens. Taken
    before a batch is split."""
    counts = [(tags == 1).sum(), (tags == 0).sum()] if tags is not None else [torch.tensor(0)] * 2
    counts.append((masked >= 0).sum() if masked is not None else torch.tensor(0))
    return torch.stack([weights[:, 1:].sum().float(), *(count.float() for count in counts)])


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
