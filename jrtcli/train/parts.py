"""What a run is made of: the model to train, its tokenizer, the data of each stage, the dev questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from jrtcli.errors import CheckpointError, UsageError
from jrtcli.models import ARCHITECTURES, architecture
from jrtcli.models.base import RecurrentLM
from jrtcli.train.config import Recipe
from jrtcli.train.recall import DevQuestion


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
    from tokenizers import Tokenizer

    from jrtcli.train.data import batch
    from jrtcli.train.dev import dev_questions, stop_ids

    if not recipe.tokenizer or not Path(recipe.tokenizer).is_file():
        raise UsageError(f"recipe: tokenizer {recipe.tokenizer!r} is not there; name a tokenizer.json")
    tokenizer = Tokenizer.from_file(recipe.tokenizer)
    data = data_configs(recipe)
    model = build_model(recipe)
    return Parts(
        model=model,
        tokenizer=tokenizer,
        batch=batch,
        data=data,
        has_encoder=model.has_encoder,
        width=model.width,
        questions=dev_questions(recipe, data[-1], tokenizer) if recipe.eval.every else [],
        stop_ids=stop_ids(tokenizer),
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
        make = getattr(cls, "from_config", None)
        if make is None:
            raise UsageError(f"recipe: {name} cannot be trained from scratch yet; name model.init_from")
        model = make(recipe.model.config)
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
    if cls.has_encoder:
        _add_encoder(weights)
    return cls.from_checkpoint({**config, **changes}, weights)


def _add_encoder(weights: dict[str, Tensor]) -> None:
    """Give a causal model's linear attentions the encoder projections they lack, copies of their own."""
    for name in [n for n in weights if n.endswith(".mixer.proj_k.weight")]:
        mixer = name.removesuffix("proj_k.weight")
        weights.setdefault(f"{mixer}proj_k_enc.weight", weights[name].clone())
        weights.setdefault(f"{mixer}proj_v_enc.weight", weights[f"{mixer}proj_v.weight"].clone())
        filters = weights.get(f"{mixer}qkv_conv.weight")
        if filters is not None:  # its rows are those of q, k, v in this order; the encoder has no q
            keys = weights[name].shape[0]
            weights.setdefault(f"{mixer}enc_conv.weight", filters[keys:].clone())
