"""Training batches: documents and questions in the text form of the prompt templates, with loss weights per
token.

`batch(config, tokenizer, step)` is a pure function of its arguments: a run that resumes at a step needs no
state of the data. A row is one document with k listed questions, as the template `cq`, `qcq` or `cqcq` shows
it at k = 1:

    Question: q1\\nQuestion: q2\\n\\n C \\n\\nQuestion: q2\\nAnswer: v2\\nQuestion: q1\\nAnswer: v1\\n
    (qcq)

Symbols: B rows, T tokens (a multiple of 64), L tokens of a context.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer

from jrtcli.train.mixture import DataConfig, Example, examples, prose, source
from jrtcli.train.rows import Source
from jrtcli.train.values import Draw

__all__ = ["Batch", "DataConfig", "Example", "batch", "examples"]

PAD_ID = 0
MULTIPLE = 64


class Batch(NamedTuple):
    """tokens (B, T) int64; weights (B, T) float32: of the loss of predicting tokens[b, t] from tokens[b, :t];
    encoder_lengths (B,) int64: tokens up to the end of the last context; tags (B, T) int8: for tokens of
    values in a context that follows listed questions, 1 if its fact is listed, 0 if not; -1 elsewhere."""

    tokens: torch.Tensor
    weights: torch.Tensor
    encoder_lengths: torch.Tensor
    tags: torch.Tensor


class _Plan(NamedTuple):
    """A row before tokenising: the listed questions come first (qcq) or between the readings (cqcq)."""

    source: Source
    template: str
    mode: float  # where k was drawn: below `one`, `two`, ...


def batch(config: DataConfig, tokenizer: Tokenizer, step: int) -> Batch:
    """The batch of `step`, about `tokens_per_step` tokens with padding; rows padded at the right with
    `PAD_ID`.

    tokenizer: a `tokenizers.Tokenizer`, as trained by `jrtcli.train.vocabulary`. Raises JrtError if a file is
    missing.
    """
    for attempt in itertools.count():
        seed = random.Random(f"{config.seed}/{step}/{attempt}").getrandbits(64)
        if made := _rows(config, tokenizer, Draw(seed, prose(config))):
            return padded(made)
    raise AssertionError


def _rows(config: DataConfig, tokenizer: Tokenizer, d: Draw) -> list[Row]:
    """The rows of a batch; none if every document was cut before its first fact."""
    length = config.document_tokens
    if d.random() < config.shorter:
        length = max(64, length // (2 if d.random() < 0.6 else 4))
    twice = d.random() < config.cqcq / (config.cqcq + config.qcq + config.cq)
    mode = d.random() * (config.one + config.two + config.many)
    plans = []
    tail = 32 if mode < config.one else 64 if mode < config.one + config.two else min(320, length)
    fitting = config.tokens_per_step / ((2 if twice else 1) * length + tail)
    for _ in range(1 + int(1.4 * fitting)):  # more than fit, to choose rows of similar length among them
        template = "cqcq" if twice else "qcq" if d.random() * (config.qcq + config.cq) < config.qcq else "cq"
        plans.append(_Plan(source(config, d, length), template, mode))
    contexts = tokenizer.encode_batch([plan.source.context for plan in plans])
    made = [
        _row(config, d, tokenizer, plan, context, length)
        for plan, context in zip(plans, contexts, strict=True)
    ]
    kept = [row for row in made if row is not None]
    return alike(kept, d.below, config.tokens_per_step) if kept else []


@functools.cache
def _blank(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens of a newline and of a lone space."""
    newline, space = tokenizer.encode("\n").ids + tokenizer.encode(" ").ids
    return newline, space


class Row(NamedTuple):
    """A row before padding: fields as those of Batch, of one row."""

    tokens: np.ndarray
    weights: np.ndarray
    encoder_length: int
    tags: np.ndarray


def _row(
    config: DataConfig, d: Draw, tokenizer: Tokenizer, plan: _Plan, context: Encoding, length: int
) -> Row | None:
    """The tokens of a plan, its context cut to `length` tokens; None if no answer is left in it."""
    newline, space = _blank(tokenizer)
    ids = context.ids[:length]
    while ids and ids[-1] in (newline, space):  # a context is stripped at its ends
        ids.pop()
    offsets = np.array(context.offsets[: len(ids)] or [(0, 0)], dtype=np.int64)
    spans = []
    for fact in plan.source.asked:
        if fact.end <= offsets[-1, 1]:
            first = int(np.searchsorted(offsets[:, 1], fact.start, side="right"))
            spans.append((fact, first, int(np.searchsorted(offsets[:, 0], fact.end, side="left"))))
    if not spans:
        return None
    k = how_many(config, d.below, plan.template, plan.mode, len(spans))
    chosen = sorted(range(len(spans)), key=lambda _: d.random())[:k]
    listed = "".join(f"Question: {spans[i][0].question}\n" for i in chosen) + "\n"
    asked = sorted(chosen, key=lambda _: d.random())
    texts = [
        f"\n{'' if n else chr(10)}Question: {spans[i][0].question}\nAnswer:" for n, i in enumerate(asked)
    ]
    texts += [" " + spans[i][0].answer for i in asked]
    texts.append(listed if plan.template == "qcq" else "\n\n" + listed)
    pieces = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    questions, answers, head = pieces[:k], pieces[k : 2 * k], pieces[-1]

    n = len(ids)
    if plan.template == "cq":
        tokens, starts, lead = list(ids), [0], -1
    elif plan.template == "qcq":
        tokens, starts, lead = head + ids, [len(head)], len(head)
    else:
        tokens, starts, lead = ids + head + ids, [0, n + len(head)], n + len(head)
    encoder_length = len(tokens)
    supervised: list[tuple[int, float]] = []
    for question, answer in zip(questions, answers, strict=True):
        tokens += question
        at = len(tokens)
        # The newline that ends an answer is the first token of the next piece, or the last of the row.
        said = min(len(answer) + 1, config.answer_tokens)
        supervised += [(at, config.first_weight)] + [(at + j, 1.0) for j in range(1, said)]
        tokens += answer
    tokens.append(newline)

    weights = np.zeros(len(tokens), dtype=np.float32)
    if config.lm_weight:
        random_share = np.random.default_rng(d.below(2**32))
        for reading, start in enumerate(starts):
            share = config.lm_second if reading else config.lm_first
            weights[start : start + n][random_share.random(n) < share] = config.lm_weight
        weights[0] = 0.0  # nothing to predict it from
    for at, weight in supervised:
        weights[at] = weight
    tags = np.full(len(tokens), -1, dtype=np.int8)
    if lead >= 0:
        for i, (_, first, last) in enumerate(spans):
            tags[lead + first : lead + last] = i in chosen
    return Row(np.array(tokens, dtype=np.int64), weights, encoder_length, tags)


def how_many(config: DataConfig, below: Callable[[int], int], template: str, mode: float, n: int) -> int:
    """How many of n questions a row asks. Without a list to read first, a few more: the document must be kept
    anyway. below(m): a number drawn from 0 to m - 1; mode: where k was drawn, as in `_Plan`."""
    extra = 2 if template == "cq" else 1
    if mode < config.one:
        return min(n, extra)
    if mode < config.one + config.two:
        return min(n, 2 * extra)
    return min(config.max_questions, -(-n // 2) + below(n // 2 + 1), n)


def alike(made: list[Row], below: Callable[[int], int], budget: int) -> list[Row]:
    """Rows of similar length that fill about `budget` tokens together: most of those made."""
    made = sorted(made, key=lambda row: len(row.tokens))
    first = below(1 + len(made) // 3)
    last = first + 1
    while last < len(made) and (last + 1 - first) * _width(made[last]) <= budget * 1.05:
        last += 1
    while first > 0 and (last + 1 - first) * _width(made[last - 1]) <= budget * 1.05:
        first -= 1
    return made[first:last]


def _width(row: Row) -> int:
    return -(-len(row.tokens) // MULTIPLE) * MULTIPLE


def padded(made: list[Row]) -> Batch:
    """Rows side by side, padded at the right to a multiple of 64 tokens."""
    width = max(_width(row) for row in made)
    tokens = np.full((len(made), width), PAD_ID, dtype=np.int64)
    weights = np.zeros((len(made), width), dtype=np.float32)
    tags = np.full((len(made), width), -1, dtype=np.int8)
    for i, row in enumerate(made):
        n = len(row.tokens)
        tokens[i, :n], weights[i, :n], tags[i, :n] = row.tokens, row.weights, row.tags
    lengths = torch.tensor([row.encoder_length for row in made], dtype=torch.int64)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(weights), lengths, torch.from_numpy(tags))
