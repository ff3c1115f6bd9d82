"""Perplexity where it matters: of tokens that can be recalled from the context, and of all others.

The slices are the paper's (section 5.2, appendix B.4, Figure 3). An AR hit is the last token of a bigram that
stood in the context before and is rare in a reference corpus: such a token is predicted from memory of the
context or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jrtcli.bigrams import distances
from jrtcli.errors import UsageError
from jrtcli.scoring import log_probabilities, unseen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from jrtcli.bigrams import BigramCounts
    from jrtcli.checkpoint import Loaded

ALL, HITS, OTHER, DISTANCE, FREQUENCY = "all", "ar hits", "other", "distance", "frequency"


@dataclass(frozen=True)
class Settings:
    """What is measured.

    length: tokens of a sequence, each read from nothing; 0: every text whole. skip: the first tokens of a
    sequence that are read but not scored (the paper: 2,048 and 1,024). rare: bigrams that the reference has
    less often can be AR hits; None: as rare as the paper's. far: by frequency only those count that were
    last seen at least so many tokens ago. rows: sequences of equal length read side by side.
    """

    length: int = 0
    skip: int = 0
    rare: int | None = None
    far: int = 1024
    rows: int = 1


@dataclass
class _Sum:
    tokens: int = 0
    nll: float = 0.0
    squares: float = 0.0


@dataclass
class Measured:
    """What came out.

    rows: of plain values, `model`, `slice` (all, ar hits, other, distance, frequency), `low` and `high` (the
    range of tokens or counts that a row covers; None for no bound), `tokens`, `nll` (mean, nats), `stderr`
    (of that mean, the tokens taken as independent), `perplexity`. facts: texts, sequences, tokens read,
    scored and left over (of sequences too short to score), whether it was interrupted, and the settings as
    they were.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def perplexity(
    loaded: Loaded,
    texts: Iterable[tuple[str, str]],
    settings: Settings | None = None,
    *,
    counts: BigramCounts | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Measured:
    """The perplexity of texts (name, text), in all and by slice.

    counts: the bigrams of a reference corpus, by this model's tokenizer; None: every bigram seen before
    counts as an AR hit, and nothing is told by frequency. on_progress: called with the tokens read so far.
    Interrupted by Ctrl-C, it is what was scored until then. Raises UsageError where nothing is long enough
    to be scored, Overflowed.
    """
    import torch

    settings = settings or Settings()
    if settings.length and settings.skip >= settings.length:
        raise UsageError(
            f"sequences of {settings.length:,} tokens of which {settings.skip:,} are skipped: nothing is left"
        )
    rare = settings.rare if settings.rare is not None else counts.rare if counts is not None else None
    sums: dict[tuple[str, int | None, int | None], _Sum] = {}
    facts: dict[str, Any] = {"texts": 0, "sequences": 0, "tokens": 0, "scored_tokens": 0, "left_tokens": 0}
    facts["interrupted"] = False
    try:
        for batch in _batches(loaded, texts, settings, facts):
            start, encoder = unseen(loaded.model, len(batch[0]), settings.skip)
            places = [_Places(ids, counts, rare, settings.far) for ids in batch]
            before = facts["tokens"]
            facts["sequences"] += len(batch)
            for at, piece in log_probabilities(
                loaded.model, torch.tensor(batch), start=start, encoder_length=encoder
            ):
                for place, values in zip(places, (-piece.double()).numpy(), strict=True):
                    place.add(sums, at, values)
                facts["scored_tokens"] += piece.numel()
                facts["tokens"] = before + len(batch) * (at + piece.shape[1])
                if on_progress is not None:
                    on_progress(facts["tokens"])
            facts["tokens"] = before + sum(map(len, batch))
    except KeyboardInterrupt:
        if not facts["scored_tokens"]:
            raise
        facts["interrupted"] = True
    if not facts["scored_tokens"]:
        raise UsageError(_too_short(loaded, settings))
    facts |= {
        "numbers": loaded.numbers,
        "length": settings.length,
        "skip": settings.skip,
        "far": settings.far,
        "rare": rare,
        "reference_tokens": counts.tokens if counts is not None else None,
    }
    order = (ALL, HITS, OTHER, DISTANCE, FREQUENCY)
    keys = sorted(sums, key=lambda key: (order.index(key[0]), key[1] or 0))
    return Measured([_row(loaded.identity.name, key, sums[key]) for key in keys], facts)


def _batches(
    loaded: Loaded, texts: Iterable[tuple[str, str]], settings: Settings, facts: dict[str, Any]
) -> Iterator[list[list[int]]]:
    """Sequences of ids of one length, at most `rows` of them together; those too short are only counted."""
    waiting: dict[int, list[list[int]]] = {}
    for _, text in texts:
        ids = loaded.tokenizer.encode(text, first=True)
        facts["texts"] += 1
        size = settings.length or len(ids) or 1
        for begin in range(0, len(ids), size):
            sequence = ids[begin : begin + size]
            if unseen(loaded.model, len(sequence), settings.skip)[0] >= len(sequence):
                facts["left_tokens"] += len(sequence)
                continue
            held = waiting.setdefault(len(sequence), [])
            held.append(sequence)
            if len(held) == max(1, settings.rows):
                yield waiting.pop(len(sequence))
    yield from waiting.values()


class _Places:
    """Which slices each token of a sequence belongs to."""

    def __init__(self, ids: list[int], counts: BigramCounts | None, rare: int | None, far: int) -> None:
        import numpy as np

        self.distance = np.array(distances(ids))
        self.count = np.array(counts.of(ids)) if counts is not None else None
        self.seen = self.distance > 0
        self.hits = self.seen if self.count is None or rare is None else self.seen & (self.count < rare)
        self.far = self.distance >= max(1, far)

    def add(
        self, sums: dict[tuple[str, int | None, int | None], _Sum], at: int, values: NDArray[np.float64]
    ) -> None:
        """Add the losses (n,) of the tokens from position `at` on."""
        here = slice(at, at + len(values))
        hits = self.hits[here]
        _add(sums, (ALL, None, None), values)
        _add(sums, (HITS, None, None), values[hits])
        _add(sums, (OTHER, None, None), values[~hits])
        for value, key in zip(values[hits], self.distance[here][hits].tolist(), strict=True):
            _add_one(sums, (DISTANCE, *octave(key)), float(value))
        if self.count is not None:
            far = self.far[here]
            for value, key in zip(values[far], self.count[here][far].tolist(), strict=True):
                _add_one(sums, (FREQUENCY, *decade(key)), float(value))


def octave(distance: int) -> tuple[int, int]:
    """The powers of two around a distance of at least 1: 1, 2 to 3, 4 to 7, ..."""
    low = 1 << (distance.bit_length() - 1)
    return low, 2 * low - 1


def decade(count: int) -> tuple[int, int]:
    """The powers of ten around a count: 0, 1 to 9, 10 to 99, ..."""
    if count == 0:
        return 0, 0
    low = 10 ** (len(str(count)) - 1)
    return low, 10 * low - 1


def _add(sums: dict[Any, _Sum], key: tuple[str, int | None, int | None], values: NDArray[np.float64]) -> None:
    if len(values):
        found = sums.setdefault(key, _Sum())
        found.tokens += len(values)
        found.nll += float(values.sum())
        found.squares += float((values * values).sum())


def _add_one(sums: dict[Any, _Sum], key: tuple[str, int | None, int | None], value: float) -> None:
    found = sums.setdefault(key, _Sum())
    found.tokens += 1
    found.nll += value
    found.squares += value * value


def _row(model: str, key: tuple[str, int | None, int | None], found: _Sum) -> dict[str, Any]:
    mean = found.nll / found.tokens
    spread = max(0.0, found.squares / found.tokens - mean * mean)
    return {
        "model": model,
        "slice": key[0],
        "low": key[1],
        "high": key[2],
        "tokens": found.tokens,
        "nll": mean,
        "stderr": math.sqrt(spread / (found.tokens - 1)) if found.tokens > 1 else None,
        "perplexity": math.exp(mean) if mean < 700 else math.inf,
    }


def _too_short(loaded: Loaded, settings: Settings) -> str:
    start, _ = unseen(loaded.model, 0, settings.skip)
    if loaded.model.has_encoder and start > settings.skip:
        return (
            f"the encoder of {loaded.identity.name} reads the first {start:,} tokens and cannot predict them:"
            " give longer texts, or a larger --length"
        )
    return f"no text has more than {start:,} tokens: give longer texts, or a smaller --skip"
