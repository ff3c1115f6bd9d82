"""What is measured while training: greedy answers to questions about documents that no step trains on, and
the loss on held-out text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jrtcli.train.loss import Objective, Sums
from jrtcli.train.sharing import share


@dataclass(frozen=True)
class DevQuestion:
    """A rendered prompt, how much of it the encoder reads, and what counts as right."""

    ids: tuple[int, ...]
    encoder_length: int
    answers: tuple[str, ...]
    group: str = ""


def contains(answer: str, golds: Iterable[str]) -> bool:
    """Whether a gold value stands in the answer, whatever the case and the spaces."""
    said = " ".join(answer.casefold().split())
    return any(" ".join(gold.casefold().split()) in said for gold in golds)


@torch.no_grad()
def greedy(
    model: Any,
    ids: Sequence[int],
    *,
    encoder_length: int | None,
    max_new_tokens: int,
    stop_ids: frozenset[int],
    device: torch.device | str = "cpu",
) -> list[int]:
    """The most probable continuation, up to and without a stop token."""
    prompt = torch.tensor([list(ids)], dtype=torch.int64, device=device)
    extra = {} if encoder_length is None else {"encoder_length": encoder_length}
    logits, state = model.prefill(prompt, **extra)
    said: list[int] = []
    for _ in range(max_new_tokens):
        token = logits.argmax(-1)
        if int(token) in stop_ids:
            break
        said.append(int(token))
        logits, state = model.step(token, state)
    return said


def recall(
    model: Any,
    tokenizer: Any,
    questions: Sequence[DevQuestion],
    *,
    has_encoder: bool,
    max_new_tokens: int,
    stop_ids: frozenset[int],
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Share of questions whose answer contains the gold value: by group, and over all of them under "all"."""
    right: dict[str, list[bool]] = {}
    for question in questions:
        said = greedy(
            model,
            question.ids,
            encoder_length=question.encoder_length if has_encoder else None,
            max_new_tokens=max_new_tokens,
            stop_ids=stop_ids,
            device=device,
        )
        hit = contains(tokenizer.decode(said), question.answers)
        right.setdefault(question.group, []).append(hit)
    shares = {group: sum(hits) / len(hits) for group, hits in right.items()}
    hits = [hit for group in right.values() for hit in group]
    return {**shares, "all": sum(hits) / len(hits) if hits else 0.0}


@torch.no_grad()
def text_losses(
    model: Any,
    batches: Sequence[Any],
    mlm_weight: float,
    *,
    has_encoder: bool,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Losses of held-out batches: text per next token, mlm per masked token where there are any, and `loss`,
    what training minimises of the two."""
    objective = Objective(model, tag_layer=None, tag_weight=0.0, width=1, mlm_weight=mlm_weight)
    sums = Sums()
    for batch in batches:
        inputs, _ = share(batch, 0, 1, device, has_encoder=has_encoder)
        sums.add(objective(inputs)[1])
    n = sums.numbers()
    text = n["text_ce"] / max(1, n["text_tokens"])
    if not n["masked"]:
        return {"text": text, "loss": text}
    mlm = n["mlm_ce"] / n["masked"]
    return {"text": text, "mlm": mlm, "loss": (text + mlm_weight * mlm) / (1 + mlm_weight)}
