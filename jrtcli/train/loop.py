"""The training loop: batches in, steps, checkpoints and events out. The only importer of accelerate.

The loop says what happens through events and prints nothing. Each step depends only on the recipe and on
what a checkpoint holds, so a run that was killed goes on to the same losses.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from jrtcli.errors import JrtError, UsageError
from jrtcli.train import processes
from jrtcli.train.config import Recipe
from jrtcli.train.events import Event, Progress, Result, Started
from jrtcli.train.keeping import Run
from jrtcli.train.loss import Objective, Sums, find_tag_layer
from jrtcli.train.optim import WeightAverage, build_optimizers, set_lr
from jrtcli.train.parts import Parts, build_parts
from jrtcli.train.prefetch import Batches
from jrtcli.train.save import Metrics, clear, load_trainer
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


class _Run(Run):
    """A run from its first step here to its last."""

    def go(self) -> Result:
        began = time.perf_counter()
        recipe = self.recipe
        self.output = Path(recipe.output)
        self.accelerator = Accelerator(
            kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT), DistributedDataParallelKwargs()]
        )
        self.main, self.world = self.accelerator.is_main_process, self.accelerator.num_processes
        self.device = self.accelerator.device
        saved = self._saved()
        self.precision = choose_precision(recipe.precision, self.device)
        torch.manual_seed(recipe.seed)
        with self.accelerator.local_main_process_first():
            self.parts = self.given or build_parts(recipe, self.say)
        self.measure = "recall" if self.parts.questions else "loss"
        self._build()
        if saved is not None:
            self._restore(saved)
        if processes.greatest(self.step, self.device) != -processes.greatest(-self.step, self.device):
            raise JrtError(f"{self.output}: the processes see different checkpoints; it must be one folder")
        self.metrics = Metrics(self.output, self.step, board=recipe.tensorboard) if self.main else None
        count = self._parameters
        self.say(
            Started(self.step, recipe.steps, count, str(self.device), self.precision, self.output, self.world)
        )
        ended = self._steps(began)
        self.accelerator.wait_for_everyone()
        if self.metrics is not None:
            self.metrics.close()
        seconds = time.perf_counter() - began
        best = self.output / ("best" if self.score is not None else "last")
        score = self.shown_score()
        return Result(ended, self.step, self.tokens, best, score, seconds, self.measure, self.main)

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
        if (
            self.accelerator.ddp_handler is not None
        ):  # text has no match bits: their head then has no gradient
            self.accelerator.ddp_handler.find_unused_parameters = bool(tagged and self.parts.has_text)
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
                    self.evaluate()
                    mark = time.perf_counter()  # the speed shown is that of training
                if self.step % recipe.save_every == 0 and self.step < recipe.steps:
                    self.save()
            self.save()
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
        means = self.whole_window().means()
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
        self.say(
            Progress(
                self.step, self.recipe.steps, stage, self.tokens, rate, left_s, batches.waited_s, means, made
            )
        )
        batches.waited_s, batches.made_s, batches.made_tokens = 0.0, 0.0, 0
        self.row({"tokens": self.tokens, "stage": stage, **means, "tokens_per_s": round(rate)})
