"""Batches made ahead of the steps that use them, so that a step never waits for its data."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

from jrtcli.train.config import Recipe
from jrtcli.train.parts import Parts
from jrtcli.train.schedule import stage_at

BATCHES_AHEAD = 4


def _timed(make: Callable[..., Any], config: Any, tokenizer: Any, step: int) -> tuple[Any, float]:
    """A batch, and the seconds it took."""
    began = time.perf_counter()
    return make(config, tokenizer, step), time.perf_counter() - began


class Batches:
    """Batches of steps in order, made ahead of time by a thread or by processes.

    waited_s: time that `get` stood still. made_tokens, made_s: of the batches given out, for one thread or
    process. All three count until the caller sets them back.
    """

    def __init__(self, parts: Parts, recipe: Recipe, step: int) -> None:
        self.parts, self.recipe = parts, recipe
        self.pool: Executor
        if recipe.workers:
            # spawn: a forked copy of a process that runs torch threads can hang
            self.pool = ProcessPoolExecutor(recipe.workers, mp_context=get_context("spawn"))
        else:
            self.pool = ThreadPoolExecutor(1)
        self.next_step = step
        self.queue: deque[Future[Any]] = deque()
        self.waited_s = self.made_s = 0.0
        self.made_tokens = 0

    def _fill(self) -> None:
        while (
            len(self.queue) < max(BATCHES_AHEAD, 2 * self.recipe.workers)
            and self.next_step < self.recipe.steps
        ):
            config = self.parts.data[stage_at(self.recipe, self.next_step)]
            self.queue.append(
                self.pool.submit(_timed, self.parts.batch, config, self.parts.tokenizer, self.next_step)
            )
            self.next_step += 1

    def get(self) -> Any:
        """The batch of the next step."""
        self._fill()
        began = time.perf_counter()
        batch, seconds = self.queue.popleft().result()
        self.waited_s += time.perf_counter() - began
        self.made_s += seconds
        self.made_tokens += batch.tokens.numel()
        return batch

    def close(self) -> None:
        """Drop what was not used."""
        self.pool.shutdown(wait=True, cancel_futures=True)
