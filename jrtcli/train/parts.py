"""What a run is made of: the model to train, its tokenizer, the data of each stage, the dev questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from jrtcli.checkpoint import Located, locate
from jrtcli.errors import UsageError
from jrtcli.hub import cached_file, is_repo_id
from jrtcli.models import ARCHITECTURES, architecture
from jrtcli.models.base import RecurrentLM
from jrtcli.train.config import Recipe
from jrtcli.train.events import Event, Noted
from jrtcli.train.recall import DevQuestion
from jrtcli.train.start import warm_start


@dataclass
class Parts:
    """Everything `loop.train` needs beside the recipe. `data` has one configuration per curriculum stage.

    held_out: batches of text that no step trains on. has_tags, has_text: whether there are batches with match
    bits, and of text. mask_token: the id, where tokens are masked. tokenizer_file: what is saved beside the
    weights, "" for the recipe's.
    """

    model: Any
    tokenizer: Any
    batch: Callable[[Any, Any, int], Any]
    data: Sequence[Any]
    has_encoder: bool
    width: int
    questions: Sequence[DevQuestion] = ()
    stop_ids: frozenset[int] = field(default_factory=frozenset)
    held_out: Sequence[Any] = ()
    has_tags: bool = True
    has_text: bool = False
    mask_token: int | None = None
    tokenizer_file: str = ""


def build_parts(recipe: Recipe, say: Callable[[Event], None] = lambda event: None) -> Parts:
    """Make what a recipe describes. Raises UsageError for what it names and cannot be had."""
    from tokenizers import Tokenizer

    from jrtcli.train import data as documents
    from jrtcli.train import sources
    from jrtcli.train.dev import dev_questions, stop_ids

    start = locate(recipe.model.init_from) if recipe.model.init_from else None
    file = tokenizer_file(recipe, start)
    tokenizer = Tokenizer.from_file(file)
    data, extra = data_configs(recipe)
    model = build_model(recipe, start, say)
    stages: Sequence[Any] = data
    made = sources.prepare(recipe, data, extra, tokenizer, file, model, say)
    if made is not None:
        stages = made.stages
    return Parts(
        model=model,
        tokenizer=tokenizer,
        batch=documents.batch if made is None else sources.batch,
        data=stages,
        has_encoder=model.has_encoder,
        width=model.width,
        questions=dev_questions(recipe, stages[-1], tokenizer) if recipe.eval.every else [],
        stop_ids=stop_ids(tokenizer),
        held_out=made.held_out if made is not None and recipe.eval.every else (),
        has_tags=made is None or made.has_questions,
        has_text=made is not None and any(stage.text is not None for stage in made.stages),
        mask_token=None if made is None else made.mask_token,
        tokenizer_file=file,
    )


def tokenizer_file(recipe: Recipe, start: Located | None) -> str:
    """The recipe's tokenizer.json, or that of the checkpoint it starts from. Raises UsageError."""
    if recipe.tokenizer or start is None:
        if not recipe.tokenizer or not Path(recipe.tokenizer).is_file():
            raise UsageError(f"recipe: tokenizer {recipe.tokenizer!r} is not there; name a tokenizer.json")
        return recipe.tokenizer
    source = start.tokenizer.source
    places = [start.folder / "tokenizer.json", Path(source), Path(source) / "tokenizer.json"]
    if is_repo_id(source) and (fetched := cached_file(source, "tokenizer.json")) is not None:
        places.append(fetched)
    for found in places:
        if found.is_file() and found.suffix == ".json":
            return str(found)
    raise UsageError(f"{start.name} brings no tokenizer.json; name one as `tokenizer` in the recipe")


def data_configs(recipe: Recipe) -> tuple[list[Any], list[Any]]:
    """A DataConfig and a Sources per stage: [data] with the stage's changes. Raises UsageError for unknown
    keys."""
    from jrtcli.train.data import DataConfig
    from jrtcli.train.sources import Sources

    kinds = (DataConfig, Sources)
    known = [{f.name for f in fields(kind)} for kind in kinds]

    def checked(values: dict[str, Any], where: str) -> list[dict[str, Any]]:
        for key in values:
            if not any(key in names for names in known):
                listed = ", ".join(sorted(set().union(*known)))
                raise UsageError(f"recipe: unknown key {where}.{key}; [data] has {listed}")
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return [{k: v for k, v in plain.items() if k in names} for names in known]

    given = checked(recipe.data, "data")
    given[0].setdefault("seed", recipe.seed)
    stages = [checked(stage.data, f"curriculum[{i}]") for i, stage in enumerate(recipe.curriculum)]
    bases = [kind(**values) for kind, values in zip(kinds, given, strict=True)]
    made = [[replace(bases[i], **stage[i]) for stage in stages] for i in (0, 1)]
    return made[0], made[1]


def build_model(recipe: Recipe, start: Located | None, say: Callable[[Event], None]) -> RecurrentLM:
    """The model of a recipe, from scratch or from `model.init_from`. Uses torch's random state."""
    name = recipe.model.architecture
    if name and name not in ARCHITECTURES:
        raise UsageError(f"recipe: model.architecture is {name!r}; there are {', '.join(ARCHITECTURES)}")
    if start is not None:
        inserted = {int(place): layer for place, layer in recipe.model.inserted.items()}
        model, notes = warm_start(name or None, start.folder, recipe.model.config, inserted)
        for note in notes:
            say(Noted(note))
    else:
        model = architecture(name or "jrt_rnn").from_config(recipe.model.config)
    model.requires_grad_(True)
    return model.train()
