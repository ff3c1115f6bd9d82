"""What a run is made of: the model to train, its tokenizer, the data of each stage, the dev questions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from jrtcli.errors import CheckpointError, UsageError
from jrtcli.models import ARCHITECTURES, architecture
from jrtcli.models.base import RecurrentLM
from jrtcli.train.config import Recipe
from jrtcli.train.recall import DevQuestion

OUTPUT_PROJECTIONS = ("out_proj.weight", "fc2.weight")
"""Matrices that write into the residual stream: they start smaller by sqrt(2 * layers), as in GPT-2."""


@dataclass
class Parts:
    """Everything `loop.train` needs beside the recipe. `data` has one configuration per curriculum stage."""

    model: Any
    tokenizer: Any
    batch: Callable[[Any, Any, int], Any]
    data: Sequence[Any]
    has_encoder: bool
    width: int
    questions: Sequence[DevQuestion] = ()
    stop_ids: frozenset[int] = field(default_factory=frozenset)


def build_parts(recipe: Recipe) -> Parts:
    """Make what a recipe describes. Raises UsageError for what it names and cannot be had."""
    from jrtcli.tokens import Tokenizer
    from jrtcli.train.data import batch

    path = Path(recipe.tokenizer)
    if not recipe.tokenizer or not path.is_file():
        raise UsageError(f"recipe: tokenizer {recipe.tokenizer!r} is not there; name a tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    data = data_configs(recipe)
    model = build_model(recipe)
    from jrtcli.train.dev import dev_questions, newline_ids

    questions = dev_questions(recipe, tokenizer) if recipe.eval.every else []
    return Parts(
        model=model,
        tokenizer=tokenizer,
        batch=batch,
        data=data,
        has_encoder=model.has_encoder,
        width=model.width,
        questions=questions,
        stop_ids=newline_ids(tokenizer),
    )


def data_configs(recipe: Recipe) -> list[Any]:
    """One DataConfig per stage: [data] with the stage's changes. Raises UsageError for unknown keys."""
    from jrtcli.train.data import DataConfig

    known = {f.name for f in fields(DataConfig)}

    def checked(values: dict[str, Any], where: str) -> dict[str, Any]:
        for key in values:
            if key not in known:
                raise UsageError(f"recipe: unknown key {where}.{key}; [data] has {', '.join(sorted(known))}")
        return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}

    given = checked(recipe.data, "data")
    if "seed" in known:
        given.setdefault("seed", recipe.seed)
    base = DataConfig(**given)
    return [
        replace(base, **checked(stage.data, f"curriculum[{i}]")) for i, stage in enumerate(recipe.curriculum)
    ]


def build_model(recipe: Recipe) -> RecurrentLM:
    """The model of a recipe, from scratch or from `model.init_from`. Uses torch's random state."""
    name = recipe.model.architecture
    if name not in ARCHITECTURES:
        raise UsageError(f"recipe: model.architecture is {name!r}; there are {', '.join(ARCHITECTURES)}")
    cls = architecture(name)
    if recipe.model.init_from:
        model = warm_start(cls, Path(recipe.model.init_from), recipe.model.config)
    else:
        model = cls(cls.Config.from_dict(recipe.model.config, None))  # type: ignore[attr-defined]
        initialise(model)
    model.requires_grad_(True)
    return model.train()


def warm_start(cls: type[RecurrentLM], folder: Path, changes: dict[str, Any]) -> RecurrentLM:
    """A model of `cls` with the weights of a checkpoint folder; `changes` override its config.

    A causal model becomes a JRT-RNN by copying its key and value projections to the encoder's.
    Raises CheckpointError when the folder holds no such model.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: no checkpoint to start from ({error})") from None
    for name in list(weights):
        for part in ("proj_k", "proj_v"):
            if cls.has_encoder and f".{part}.weight" in name:
                weights.setdefault(name.replace(f".{part}.", f".{part}_enc."), weights[name].clone())
    return cls.from_checkpoint({**config, **changes}, weights)


@torch.no_grad()
def initialise(model: RecurrentLM) -> None:
    """GPT-2's start: normal weights, small in the embedding and smaller where a layer writes its result.

    Matrices get a standard deviation of 1/sqrt(columns) (0.02 at GPT-2's width would starve a narrow model).
    """
    depth = math.sqrt(2 * len(model.layers))
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.endswith(OUTPUT_PROJECTIONS):
            parameter.div_(depth)
