"""A run's state, and what it does between steps: evaluate, choose the best checkpoint, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from jrtcli.train import processes
from jrtcli.train.config import Recipe
from jrtcli.train.events import Evaluated, Event, Saved
from jrtcli.train.loss import Objective, Sums
from jrtcli.train.optim import WeightAverage
from jrtcli.train.parts import Parts
from jrtcli.train.recall import recall, text_losses
from jrtcli.train.save import Metrics, save_model, save_trainer, versions


@dataclass
class Run:
    """What a run is asked to do, where it stands, and what it is made of.

    score: the best so far, greater is better: recall, or (measure "loss") the negative loss on held-out text.
    window: sums since the last log. bare: the objective without wrappers. twin: a whole copy of the model
    where its weights are sharded. main: whether this process speaks and writes for all `world` of them.
    """

    recipe: Recipe
    on_event: Callable[[Event], None]
    stop: Callable[[], bool]
    resume: str
    given: Parts | None
    step: int = 0
    tokens: int = 0
    longest: int = 0
    score: float | None = None
    window: Sums = field(default_factory=Sums)
    measure: str = "recall"
    main: bool = True
    world: int = 1
    output: Path = field(init=False)
    parts: Parts = field(init=False)
    device: torch.device = field(init=False)
    bare: Objective = field(init=False)
    optimizers: list[Any] = field(init=False)
    average: WeightAverage | None = None
    twin: Any = None
    metrics: Metrics | None = None

    def say(self, event: Event) -> None:
        if self.main:
            self.on_event(event)

    def row(self, row: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write({"step": self.step, **row})

    def whole_window(self) -> Sums:
        """The sums of all processes since the last log."""
        window = Sums(**processes.summed(self.window.numbers(), self.device))
        window.batches /= self.world
        return window

    @contextmanager
    def shown(self) -> Iterator[Any]:
        """The model as it would be shipped: averaged weights where an average is kept, whole where
        sharded."""
        model = self.bare.model
        if self.average is not None:
            self.average.swap()
        shown = model
        if self.twin is not None:
            shown = self.twin
            shown.load_state_dict(processes.whole(model.state_dict()))
        shown.eval()
        try:
            yield shown
        finally:
            model.train()
            if self.average is not None:
                self.average.swap()

    def evaluate(self) -> None:
        parts = self.parts
        if not parts.questions and not parts.held_out:
            return
        began = time.perf_counter()
        with self.shown() as model:
            if self.main:
                self._measure(model, began)
        processes.wait()

    def _measure(self, model: Any, began: float) -> None:
        parts = self.parts
        row: dict[str, Any] = {}
        shares: dict[str, float] = {}
        losses: dict[str, float] | None = None
        if parts.questions:
            shares = row["recall"] = recall(
                model,
                parts.tokenizer,
                parts.questions,
                has_encoder=parts.has_encoder,
                max_new_tokens=self.recipe.eval.max_new_tokens,
                stop_ids=parts.stop_ids,
                device=self.device,
            )
        if parts.held_out:
            weight = self.recipe.objective.mlm_weight
            losses = row["held_out"] = text_losses(
                model, parts.held_out, weight, has_encoder=parts.has_encoder, device=self.device
            )
        score = shares["all"] if losses is None or parts.questions else -losses["loss"]
        best = self.score is None or score >= self.score
        if best:
            self.score = score
            self.export(model, "best")
        seconds = time.perf_counter() - began
        self.say(Evaluated(self.step, shares, len(parts.questions), best, seconds, losses))
        self.row({**row, "best": best})

    def export(self, model: Any, name: str) -> None:
        training = {
            "step": self.step,
            "tokens": self.tokens,
            "score": self.shown_score(),
            "measure": self.measure,
            "recipe": self.recipe.as_dict(),
            "versions": versions(),
        }
        if self.parts.mask_token is not None:
            training["mask_token"] = self.parts.mask_token
        reading = {
            "template": self.recipe.template,
            "context_tokens": self.longest,
            # Longer documents are read in passages of the length that was trained.
            "window_tokens": max(getattr(data, "document_tokens", 0) for data in self.parts.data),
            "stop": ["\n"],
        }
        tokenizer = self.parts.tokenizer_file or self.recipe.tokenizer
        save_model(self.output / name, model, training=training, tokenizer=tokenizer, reading=reading)

    def shown_score(self) -> float | None:
        """The best score as it is said: losses positive."""
        return self.score if self.score is None or self.measure == "recall" else -self.score

    def save(self) -> None:
        with self.shown() as model:
            if self.main:
                self.export(model, "last")
        state = {
            "recipe": self.recipe.as_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "longest": self.longest,
            "score": self.score,
            "window": self.whole_window().numbers(),
            "objective": processes.whole(self.bare.state_dict()),
            "optimizers": [processes.whole(optimizer.state_dict()) for optimizer in self.optimizers],
            "average": processes.whole(self.average.state_dict()) if self.average is not None else None,
            "rng": torch.get_rng_state(),
        }
        if self.main:
            save_trainer(self.output, state)
            self.say(Saved(self.step, self.output / "last"))
        processes.wait()
