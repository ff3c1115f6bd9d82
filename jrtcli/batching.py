"""Batch: many answers at once, by one model.

Prompts are read together, packed; then every live row gets one token at each step. Rows that are done leave,
others join, so that the batch stays full. A row's answer is what it would be alone, whatever runs beside it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from jrtcli.errors import JrtError
from jrtcli.generate import Chosen, Overflowed, choose, random_of
from jrtcli.live_rows import Begun, LiveRow, LiveRows, RowSteps
from jrtcli.reader import MAX_NEW_TOKENS, Reader
from jrtcli.state import State

if TYPE_CHECKING:
    from jrtcli.answer import Answer
    from jrtcli.models.base import RecurrentLM
    from jrtcli.prepared import Prepared, Request

K = TypeVar("K")

FIRST_ROWS = 4
"""Rows of the first reading where the number is to be found; it doubles while memory suffices."""

MOST_ROWS = {"cpu": 32, "cuda": 256}
"""No more rows than these by themselves: a CPU gains little beyond, and a kill loses what is in flight."""

FIRST_TOKENS = 1 << 14
"""Tokens of the first reading of several rows; doubles and halves with the rows."""

MOST_TOKENS = {"cpu": 1 << 15, "cuda": 1 << 19}
"""The same limit for tokens: JRT-RNN's encoder holds all of them in its layers at once, and a CPU that runs
out of memory is not told but killed."""


class OutOfMemory(JrtError):
    """One row alone does not fit into memory."""


TOO_LARGE = OutOfMemory("the row does not fit into memory: take --dtype bfloat16, or a shorter document")


class Batch:
    """Answers many prepared questions with one reader.

    rows: in flight at once; None: found, by doubling while memory suffices and halving where it does not.
    leads: whether answers have them. Attributes: `rows` and `tokens`, the numbers as they stand;
    `tokens_read`, those of all prompts so far.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        rows: int | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        leads: bool = False,
    ) -> None:
        if rows is not None and rows < 1:
            raise ValueError(f"a batch of {rows} rows")
        self.reader, self.max_new_tokens, self.leads = reader, max_new_tokens, leads
        self.model: RecurrentLM = reader.loaded.model
        self.rows = FIRST_ROWS if rows is None else rows
        self.tokens = FIRST_TOKENS
        self.tokens_read = 0
        self._most_tokens = MOST_TOKENS.get(self.model.device.type, FIRST_TOKENS)
        self._most = MOST_ROWS.get(self.model.device.type, FIRST_ROWS) if rows is None else rows
        self._stopped = False

    def stop(self) -> None:
        """Begin no more questions; those whose reading has begun are still answered."""
        self._stopped = True

    def run(self, items: Iterable[tuple[K, Prepared]]) -> Iterator[tuple[K, Answer | Exception]]:
        """Answers in the order in which they are done, each with its key.

        items: pulled when there is room for them, and, though they had ended, after each answer: it may give
        rise to another question. An error belongs to its row alone: numbers that overflowed,
        or a row too large for the memory (OutOfMemory).
        """
        source = iter(items)
        waiting: deque[LiveRow[K]] = deque()
        live: LiveRows[K] = LiveRows()
        while True:
            while not self._stopped and len(waiting) + len(live.rows) < self.rows:
                item = next(source, None)
                if item is None:
                    break
                waiting.append(self._row(*item))
            if self._stopped:
                waiting.clear()
            # Reading is worth most for many rows together: wait until half of the places are free.
            if waiting and len(live.rows) <= self.rows // 2:
                yield from self._begin(waiting, live)
            elif live.rows:
                yield from self._step(waiting, live)
            elif not waiting:
                return

    def _row(self, key: K, prepared: Prepared) -> LiveRow[K]:
        steps = RowSteps(self.model, self.max_new_tokens, self.reader.stop_ids)
        return LiveRow(
            key, prepared, steps, self.reader.asking(prepared, steps), unread=len(prepared.requests)
        )

    def _begin(self, waiting: deque[LiveRow[K]], live: LiveRows[K]) -> Iterator[tuple[K, Answer | Exception]]:
        """Read the prompts of as many waiting rows as there are places and tokens for; they join."""
        chosen: list[LiveRow[K]] = []
        tokens = 0
        while waiting and len(chosen) + len(live.rows) < self.rows:
            if chosen and tokens + waiting[0].prepared.tokens > self.tokens:
                break
            chosen.append(waiting.popleft())
            tokens += chosen[-1].prepared.tokens
        alone = [row for row in chosen if row.prepared.requests[0].filled.reencode]
        for row in alone:
            # Everything is read anew for each token: nothing to share with other rows.
            yield row.key, self._alone(row)
        together = [row for row in chosen if row not in alone]
        failed: dict[int, Exception] = {}
        self._read([(row, request) for row in together for request in row.prepared.requests], failed)
        for row in together:
            if id(row) in failed:
                yield row.key, failed[id(row)]
        joined = [row for row in together if id(row) not in failed]
        going = []
        for row in joined:
            assert row.best is not None
            row.steps.join(row.seconds)
            if row.give(row.best.chosen, row.best.state):
                yield row.key, row.asking.answer
            else:
                going.append(row)
        if going:
            live.join(going)
        if not failed and tokens * 2 > self.tokens:
            self.tokens = min(self._most_tokens, self.tokens * 2)
        if not failed and len(live.rows) * 2 > self.rows:
            self.rows = min(self._most, self.rows * 2)

    def _alone(self, row: LiveRow[K]) -> Answer | Exception:
        asking = self.reader.start(row.prepared, max_new_tokens=self.max_new_tokens)
        try:
            for _ in asking:
                pass
        except Overflowed as error:
            return error
        except (MemoryError, RuntimeError) as error:
            _check_memory(error)
            return TOO_LARGE
        self.tokens_read += row.prepared.tokens
        return asking.answer

    def _read(self, pairs: Sequence[tuple[LiveRow[K], Request]], failed: dict[int, Exception]) -> None:
        """Read requests, several at once; of a row's passages the surest is kept."""
        groups: dict[int, list[tuple[LiveRow[K], Request]]] = {}
        for row, request in pairs:
            # Published left padding reads rows of one length, with their masks, and no others.
            mask = request.filled.mask
            groups.setdefault(0 if mask is None else len(mask), []).append((row, request))
        for group in groups.values():
            at, size = 0, max(1, self.rows)
            while at < len(group):
                part = [pair for pair in group[at : at + size] if id(pair[0]) not in failed]
                try:
                    if part:
                        self._prefill(part, failed)
                except (MemoryError, RuntimeError) as error:
                    _check_memory(error)
                    if len(part) > 1:
                        size = len(part) // 2
                        self._shrink(size)
                        continue
                    failed[id(part[0][0])] = TOO_LARGE
                at += size

    def _shrink(self, rows: int) -> None:
        self._most = self.rows = max(1, rows)
        self._most_tokens = self.tokens = max(1, self.tokens // 2)
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _prefill(self, pairs: Sequence[tuple[LiveRow[K], Request]], failed: dict[int, Exception]) -> None:
        started = time.perf_counter()
        model, device = self.model, self.model.device
        ids = [request.filled.ids for _, request in pairs]
        options: dict[str, Any] = {}
        if pairs[0][1].filled.mask is not None:
            options["mask"] = torch.tensor([r.filled.mask for _, r in pairs], device=device)
            tokens = torch.tensor(ids, device=device)
        elif len(pairs) == 1:
            tokens = torch.tensor(ids, device=device)
        else:
            tokens = torch.tensor([token for row in ids for token in row], device=device)[None]
            bounds = torch.tensor([0, *(len(row) for row in ids)], device=device)
            options["cu_seqlens"] = bounds.cumsum(0)
        if any(request.encoder_length is not None for _, request in pairs):
            lengths = [request.encoder_length or 0 for _, request in pairs]
            options["encoder_length"] = torch.tensor(lengths, device=device)
        state = None
        if any(request.state is not None for _, request in pairs):
            fresh = model.init_state(1)
            state = State.concat([request.state or fresh for _, request in pairs])
        logits, state = model.prefill(tokens, state, **options)
        randoms = [random_of(self.reader.seed) for _ in pairs]
        first = self._choose(logits, randoms)
        seconds = time.perf_counter() - started
        total = sum(len(row) for row in ids)
        for i, ((row, request), chosen) in enumerate(zip(pairs, first, strict=True)):
            if chosen is None:
                failed[id(row)] = Overflowed()
                continue
            says = chosen.id not in self.reader.stop_ids and self.reader.says(chosen.id)
            sure = (says, chosen.probability)
            # One reading serves many rows: each is charged for its share of the tokens.
            row.seconds += seconds * request.tokens / total
            row.unread -= 1
            if row.best is None or sure > row.best.sure:
                row.best = Begun(sure, chosen, state.select([i]), randoms[i])
        self.tokens_read += total

    def _step(self, waiting: deque[LiveRow[K]], live: LiveRows[K]) -> Iterator[tuple[K, Answer | Exception]]:
        """One more token for every live row."""
        decoding = live.decoding
        assert decoding is not None
        tokens = torch.tensor([row.token for row in live.rows], device=self.model.device)
        try:
            logits = decoding.step(tokens)
            chosen = self._choose(logits, live.randoms)
        except (MemoryError, RuntimeError) as error:
            _check_memory(error)
            # The first half goes on, the other begins again when it is done.
            half = len(live.rows) // 2
            if half:
                waiting.extendleft(self._row(row.key, row.prepared) for row in reversed(live.rows[half:]))
                self._shrink(half)
            else:
                yield live.rows[0].key, TOO_LARGE
            live.keep(range(half))
            return
        kept = []
        for i, (row, next_one) in enumerate(zip(live.rows, chosen, strict=True)):
            if next_one is None:
                yield row.key, Overflowed()
            elif row.give(next_one, lambda i=i: decoding.state([i])):
                yield row.key, row.asking.answer
            else:
                kept.append(i)
        live.keep(kept)

    def _choose(self, logits: torch.Tensor, randoms: Sequence[torch.Generator]) -> list[Chosen | None]:
        return choose(
            logits,
            randoms,
            real_tokens=self.reader.loaded.real_tokens,
            temperature=self.reader.temperature,
            leads=self.leads,
        )


def _check_memory(error: Exception) -> None:
    """Raise an error that is not of memory; the allocator of a CPU has no type for it."""
    said = str(error).lower()
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return
    if "out of memory" not in said and "can't allocate memory" not in said:
        raise error
