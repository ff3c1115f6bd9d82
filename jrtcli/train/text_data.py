"""Batches of plain text for the objectives `lm` and `jrt`: documents cut to sequences, packed side by side.

`text_batch(config, step)` is a pure function. Documents are cut into sequences of at most `length` tokens,
which are shuffled anew in each pass; a step takes the sequences that begin in its part of that stream.
Sequences of a pack never see each other. One document in fifty is held out; where there are fewer than fifty,
the end of each.

Objective `jrt` (Just read twice, equation 5, as its code trains it): the first E tokens of a sequence are the
encoder region, a share of them replaced by the mask token and told at their own place; next tokens are told
from the positions E and after, of the decoder region.

Symbols: T tokens of all sequences of a batch, S sequences, L the greatest length, E encoder tokens.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jrtcli.train.token_cache import Tokens, open_tokens

HELD_EVERY = 50
"""One document in so many, or one part in so many of each, is never trained on."""
_LEAST = 2  # a sequence of one token has nothing to predict


@dataclass(frozen=True)
class TextConfig:
    """folder: of the token cache. length: L. kind: "lm" or "jrt", for which mask_token, mask_share and
    encoder_tokens are as in `config.ObjectiveRecipe`."""

    folder: str
    seed: int
    length: int
    tokens_per_step: int
    kind: str = "lm"
    mask_token: int = -1
    mask_share: float = 0.15
    encoder_tokens: tuple[int, ...] = (0,)
    held_out: bool = False


class TextBatch(NamedTuple):
    """tokens (1, T) with cu_seqlens (S + 1,), or (S, L) where all sequences are equally long; weights of
    their shape, 1 on what is predicted; encoder_lengths (S,), None for `lm`; masked as in `loss.Inputs`."""

    tokens: Tensor
    weights: Tensor
    encoder_lengths: Tensor | None
    masked: Tensor | None
    cu_seqlens: Tensor | None
    longest: int
    tags: None = None
    is_text: bool = True


def text_batch(config: TextConfig, step: int) -> TextBatch:
    """The batch of `step`, about `tokens_per_step` tokens."""
    tokens = _tokens(config.folder)
    cut = sequences(config.folder, config.length, config.held_out)
    total = int(cut[:, 1].sum() - cut[:, 0].sum())
    first, last = step * config.tokens_per_step, (step + 1) * config.tokens_per_step
    chosen: list[np.ndarray] = []
    for epoch in range(first // total, (last - 1) // total + 1):
        order, begins = _shuffled(config.folder, config.length, config.held_out, config.seed, epoch)
        a, b = np.searchsorted(begins, [first - epoch * total, last - epoch * total])
        chosen.append(cut[order[a:b]])
    rows = [tokens.ids[start:stop].astype(np.int64) for start, stop in np.concatenate(chosen)]
    return assemble(rows, config, np.random.default_rng([config.seed, step, 1]))


def assemble(rows: list[np.ndarray], config: TextConfig, draw: np.random.Generator) -> TextBatch:
    """Sequences as one batch with the targets of the objective."""
    weights = [np.ones(len(row), dtype=np.float32) for row in rows]
    masks = [np.full(len(row), -1, dtype=np.int64) for row in rows]
    lengths: list[int] = []
    for i, row in enumerate(rows):
        weights[i][0] = 0.0  # nothing to predict it from
        if config.kind == "jrt":
            encoder = _encoder_tokens(config.encoder_tokens, len(row), draw)
            lengths.append(encoder)
            # The state after the region's last token is not asked for the next one, as in the original.
            weights[i][: encoder + 1] = 0.0
            count = max(1, round(config.mask_share * encoder))
            places = draw.choice(encoder, size=count, replace=False)
            masks[i][places] = row[places]
            row = row.copy()
            row[places] = config.mask_token
            rows[i] = row
    sizes = [len(row) for row in rows]
    join = np.stack if len(set(sizes)) == 1 else lambda parts: np.concatenate(parts)[None]
    bounds = None if len(set(sizes)) == 1 else torch.tensor([0, *np.cumsum(sizes)], dtype=torch.int64)
    masked = config.kind == "jrt"
    return TextBatch(
        tokens=torch.from_numpy(join(rows)),
        weights=torch.from_numpy(join(weights)),
        encoder_lengths=torch.tensor(lengths, dtype=torch.int64) if masked else None,
        masked=torch.from_numpy(join(masks)) if masked else None,
        cu_seqlens=bounds,
        longest=max(sizes),
    )


def _encoder_tokens(asked: tuple[int, ...], length: int, draw: np.random.Generator) -> int:
    """E of a sequence: as asked, or half of it where that is 0 or leaves no token after the region."""
    encoder = int(draw.integers(asked[0], asked[-1], endpoint=True)) if asked[-1] else 0
    return encoder if 0 < encoder < length else max(1, length // 2)


@functools.cache
def _tokens(folder: str) -> Tokens:
    return open_tokens(folder)


@functools.cache
def sequences(folder: str, length: int, held_out: bool) -> np.ndarray:
    """(S, 2): start and end of every sequence of the training part, or of the held-out part."""
    bounds = _tokens(folder).bounds
    start, stop = bounds[:-1], bounds[1:]
    if len(start) >= HELD_EVERY:
        is_held = np.arange(len(start)) % HELD_EVERY == HELD_EVERY // 2
        start, stop = start[is_held == held_out], stop[is_held == held_out]
    else:
        border = stop - (stop - start) // HELD_EVERY
        start, stop = (border, stop) if held_out else (start, border)
    counts = -(-(stop - start) // length)
    first = np.repeat(start, counts)
    within = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = first + within * length
    ends = np.minimum(begins + length, np.repeat(stop, counts))
    cut = np.stack([begins, ends], 1)
    return cut[ends - begins >= _LEAST]


@functools.lru_cache(maxsize=4)
def _shuffled(
    folder: str, length: int, held_out: bool, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """The order of the sequences in a pass, and how many tokens come before each."""
    cut = sequences(folder, length, held_out)
    order = np.random.default_rng([seed, epoch]).permutation(len(cut))
    sizes = (cut[:, 1] - cut[:, 0])[order]
    return order, np.cumsum(sizes) - sizes


def held_out_batches(config: TextConfig, tokens: int) -> list[TextBatch]:
    """About `tokens` tokens of the held-out part, the same in every run of a seed; none where it is empty."""
    held = replace(config, held_out=True)
    cut = sequences(held.folder, held.length, True)
    there = int((cut[:, 1] - cut[:, 0]).sum())
    if not there or not tokens:
        return []
    held = replace(held, tokens_per_step=max(held.length, min(held.tokens_per_step, there)))
    return [text_batch(held, step) for step in range(max(1, min(tokens, there) // held.tokens_per_step))]
