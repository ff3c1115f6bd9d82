"""The training loop: batches in, steps, checkpoints and events out. The only importer of accelerate.

The loop says what happens through events and prints nothing. Each step depends only on the recipe and on
what a checkpoint holds, so a run that was killed goes on to the same losses.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from jrtcli.errors import JrtError, UsageError
from jrtcli.train import processes
from jrtcli.train.config import Recipe
from jrtcli.train.events import Evaluated, Event, Progress, Result, Saved, Started
from jrtcli.train.loss import Objective, Sums, find_tag_layer
from jrtcli.train.optim import WeightAverage, build_optimizers, set_lr
from jrtcli.train.parts import Parts, build_parts
from jrtcli.train.prefetch import Batches
from jrtcli.train.recall import recall, text_losses
from jrtcli.train.save import Metrics, clear, load_trainer, save_model, save_trainer, versions
from jrtcli.train.schedule import differences, lr_factor, stage_at
from jrtcli.train.sharing import share

WAIT = timedelta(hours=6)
"""How long the processes wait for one that tokenises or evaluates."""


def choose_precision(asked: str, device: torch.device) -> str:
    """ "bf16" where the device multiplies it fast, else "fp32"."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if fast else "fp32"
    return "fp32"


def train(
    recipe: Recipe,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    resume: str = "auto",
    parts: Parts | None = None,
) -> Result:
    """Train until the recipe's last step, its time limit, or `stop()`.

    resume: "auto" goes on from a checkpoint of the same recipe in the output folder, "always" also from
    one of another recipe, "fresh" removes it. `parts` replaces what the recipe would build.
    Raises UsageError when the folder holds a run of another recipe, JrtError when the loss is no number.
    """
    return _Run(recipe, on_event, stop, resume, parts).go()


@dataclass
class _Run:
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

    def go(self) -> Result:
        began = time.perf_counter()
        recipe = self.recipe
        self.output = Path(recipe.output)
        self.accelerator = Accelerator(
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=WAIT),
                # A batch of text has no match bits, and a sequence may lie outside the encoder altogether.
                DistributedDataParallelKwargs(find_unused_parameters=True),
            ]
        )
        self.main, self.world = self.accelerator.is_main_process, self.accelerator.num_processes
        self.device = self.accelerator.device
        saved = self._saved()
        self.precision = choose_precision(recipe.precision, self.device)
        torch.manual_seed(recipe.seed)
        with self.accelerator.local_main_process_first():
            self.parts = self.given or build_parts(recipe, self._say)
        self.measure = "recall" if self.parts.questions else "loss"
        self._build()
        if saved is not None:
            self._restore(saved)
        if processes.greatest(self.step, self.device) != -processes.greatest(-self.step, self.device):
            raise JrtError(f"{self.output}: the processes see different checkpoints; it must be one folder")
        self.metrics = Metrics(self.output, self.step, board=recipe.tensorboard) if self.main else None
        count = self._parameters
        self._say(
            Started(self.step, recipe.steps, count, str(self.device), self.precision, self.output, self.world)
        )
        ended = self._steps(began)
        self.accelerator.wait_for_everyone()
        if self.metrics is not None:
            self.metrics.close()
        seconds = time.perf_counter() - began
        best = self.output / ("best" if self.score is not None else "last")
        shown = self.score if self.score is None or self.measure == "recall" else -self.score
        return Result(ended, self.step, self.tokens, best, shown, seconds, self.measure, self.main)

    def _say(self, event: Event) -> None:
        if self.main:
            self.on_event(event)

    def _saved(self) -> dict[str, Any] | None:
        if self.resume == "fresh":
            if self.main:
                clear(self.output)
            self.accelerator.wait_for_everyone()
            return None
        saved = load_trainer(self.output)
        if saved is None:
            if self.resume == "always":
                raise UsageError(f"{self.output}: no checkpoint to resume from; leave out --resume to start")
            return None
        if self.resume == "auto":
            changed = differences(saved["recipe"], self.recipe.as_dict())
            if changed:
                raise UsageError(
                    f"{self.output} holds a run of another recipe (different: {', '.join(changed)}); "
                    "give another --output, or --resume to go on with the new one, or --fresh to start over"
                )
        return saved

    def _build(self) -> None:
        recipe, model = self.recipe, self.parts.model
        tagged = recipe.loss.tag > 0 and self.parts.has_tags
        tag_layer = find_tag_layer(model, recipe.model.tag_layer) if tagged else None
        objective = Objective(
            model,
            tag_layer=tag_layer,
            tag_weight=recipe.loss.tag,
            width=self.parts.width,
            mlm_weight=recipe.objective.mlm_weight,
        ).to(self.device)
        self._parameters = sum(p.numel() for p in model.parameters())
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        self.twin = None
        if plugin is not None:
            if plugin.fsdp_version != 2:
                raise UsageError("accelerate: only fsdp_version 2 is supported; set it in the config file")
            plugin.transformer_cls_names_to_wrap = [type(model.layers[0]).__name__]
            self.twin = copy.deepcopy(model).requires_grad_(False)  # whole, for evaluation and checkpoints
        optimizers = build_optimizers(objective, recipe.optimizer)
        self.bare = objective
        self.objective, *self.optimizers = self.accelerator.prepare(objective, *optimizers)
        if plugin is not None:
            self.bare = self.accelerator.unwrap_model(self.objective)
        self.average = WeightAverage(self.bare.model, recipe.ema) if recipe.ema else None

    def _restore(self, saved: dict[str, Any]) -> None:
        try:
            processes.load_module(self.bare, saved["objective"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                base = [group["base_lr"] for group in optimizer.param_groups]
                processes.load_optimizer(optimizer, state)
                for group, rate in zip(optimizer.param_groups, base, strict=True):
                    group["base_lr"] = rate  # --resume with a new recipe brings new rates
            if self.average is not None and saved["average"] is not None:
                self.average.load_state_dict(saved["average"])
        except (KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{self.output}: its checkpoint does not fit this model ({reason}); use --fresh"
            ) from None
        self.step, self.tokens, self.longest = saved["step"], saved["tokens"], saved["longest"]
        self.score = saved["score"]
        self.window = Sums(**saved["window"]) if self.main else Sums()
        self.window.batches *= self.world  # they are counted in each process
        torch.set_rng_state(saved["rng"])

    def _steps(self, began: float) -> str:
        recipe = self.recipe
        batches = Batches(self.parts, recipe, self.step)
        mark, mark_tokens, mark_step = time.perf_counter(), self.tokens, self.step
        ended = "done"
        try:
            while self.step < recipe.steps:
                late = recipe.minutes and time.perf_counter() - began > 60 * recipe.minutes
                # One process that stops alone would leave the others waiting.
                wish = processes.greatest(2 if self.stop() else 1 if late else 0, self.device)
                if wish:
                    ended = "interrupted" if wish == 2 else "out of time"
                    break
                self._one(batches.get())
                if self.step % recipe.log_every == 0 or self.step == recipe.steps:
                    now = time.perf_counter()
                    self._log(now - mark, self.tokens - mark_tokens, self.step - mark_step, batches)
                    mark, mark_tokens, mark_step = now, self.tokens, self.step
                every = recipe.eval.every
                if every and (self.step % every == 0 or self.step == recipe.steps):
                    self._evaluate()
                    mark = time.perf_counter()  # the speed shown is that of training
                if self.step % recipe.save_every == 0 and self.step < recipe.steps:
                    self._save()
            self._save()
        finally:
            batches.close()
        return ended

    def _one(self, batch: Any) -> None:
        set_lr(self.optimizers, lr_factor(self.recipe, self.step))
        inputs, _ = share(
            batch,
            self.accelerator.process_index,
            self.world,
            self.device,
            has_encoder=self.parts.has_encoder,
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss, sums = self.objective(inputs)
        # Each process divides by the totals of the whole batch and gradients are averaged: times world.
        self.accelerator.backward(loss * self.world)
        if self.recipe.optimizer.clip_norm:
            self.accelerator.clip_grad_norm_(self.objective.parameters(), self.recipe.optimizer.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.step)
        self.window.add(sums)
        self.step += 1
        self.tokens += batch.tokens.numel()
        self.longest = max(self.longest, getattr(batch, "longest", batch.tokens.shape[1]))

    def _log(self, seconds: float, tokens: int, steps: int, batches: Batches) -> None:
        means = self._whole_window().means()
        self.window = Sums()
        if not math.isfinite(means["loss"]):
            raise JrtError(
                f"the loss is {means['loss']} at step {self.step}; lower optimizer.muon_lr and "
                f"optimizer.adamw_lr and run again (the last checkpoint in {self.output} is kept)"
            )
        rate = tokens / max(seconds, 1e-9)
        left_s = (self.recipe.steps - self.step) * seconds / steps
        stage = stage_at(self.recipe, self.step - 1)
        made = batches.made_tokens / max(batches.made_s, 1e-9)
        self._say(
            Progress(
                self.step, self.recipe.steps, stage, self.tokens, rate, left_s, batches.waited_s, means, made
            )
        )
        batches.waited_s, batches.made_s, batches.made_tokens = 0.0, 0.0, 0
        self._row({"tokens": self.tokens, "stage": stage, **means, "tokens_per_s": round(rate)})

    def _row(self, row: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write({"step": self.step, **row})

    def _whole_window(self) -> Sums:
        """The sums of all processes since the last log."""
        window = Sums(**processes.summed(self.window.numbers(), self.device))
        window.batches /= self.world
        return window

    @contextmanager
    def _shown(self) -> Iterator[Any]:
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

    def _evaluate(self) -> None:
        parts = self.parts
        if not parts.questions and not parts.held_out:
            return
        began = time.perf_counter()
        with self._shown() as model:
            if self.main:
                self._measure(model, began)
        self.accelerator.wait_for_everyone()

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
            self._export(model, "best")
        seconds = time.perf_counter() - began
        self._say(Evaluated(self.step, shares, len(parts.questions), best, seconds, losses))
        self._row({**row, "best": best})

    def _export(self, model: Any, name: str) -> None:
        score = self.score if self.score is None or self.measure == "recall" else -self.score
        training = {
            "step": self.step,
            "tokens": self.tokens,
            "score": score,
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

    def _save(self) -> None:
        with self._shown() as model:
            if self.main:
                self._export(model, "last")
        state = {
            "recipe": self.recipe.as_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "longest": self.longest,
            "score": self.score,
            "window": self._whole_window().numbers(),
            "objective": processes.whole(self.bare.state_dict()),
            "optimizers": [processes.whole(optimizer.state_dict()) for optimizer in self.optimizers],
            "average": processes.whole(self.average.state_dict()) if self.average is not None else None,
            "rng": torch.get_rng_state(),
        }
        if self.main:
            save_trainer(self.output, state)
            self._say(Saved(self.step, self.output / "last"))
        self.accelerator.wait_for_everyone()
