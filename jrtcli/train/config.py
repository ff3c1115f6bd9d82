"""Recipes: a TOML file read into frozen dataclasses."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jrtcli.errors import UsageError

DECAYS = ("linear", "cosine", "constant")
PRECISIONS = ("auto", "bf16", "fp32")
OBJECTIVES = ("answers", "lm", "jrt")
BOARDS = ("auto", "on", "off")


@dataclass(frozen=True)
class ModelRecipe:
    """What is trained. `config` is the architecture's own configuration, as in a published config.json."""

    architecture: str = ""
    """A name of `jrtcli.models.ARCHITECTURES`; "" is that of init_from, or else jrt_rnn."""
    config: dict[str, Any] = field(default_factory=dict)
    init_from: str = ""
    """Checkpoint to start from: a folder, a short name or a hub id; "" starts from scratch. `config` then
    holds changes to the checkpoint's."""
    inserted: dict[str, Any] = field(default_factory=dict)
    """Layers put into the checkpoint's: place in the model -> its layer that the new one begins as, its
    outputs silenced."""
    tag_layer: int = -1
    """Layer whose output feeds the match-bit head; -1 finds the first linear attention."""


@dataclass(frozen=True)
class OptimizerRecipe:
    """Muon for hidden matrices, AdamW for the rest; rates are those of the plateau."""

    muon: bool = True
    """false: AdamW for everything."""
    muon_lr: float = 0.02
    muon_momentum: float = 0.95
    muon_weight_decay: float = 0.0
    adamw_lr: float = 4e-3
    adamw_betas: tuple[float, float] = (0.9, 0.98)
    adamw_weight_decay: float = 0.0
    clip_norm: float = 1.0
    """Largest norm of all gradients together; 0 leaves them as they are."""
    warmup_steps: int = 50
    decay: str = "linear"
    decay_from: float = 0.0
    """Share of the run at which the decay begins."""
    final_lr: float = 0.02
    """Factor of the rates at the last step."""


@dataclass(frozen=True)
class LossRecipe:
    """Weights of the auxiliary losses; the weights of tokens come with the data."""

    tag: float = 1.0
    """Match-bit loss: does this token belong to the value of a listed question? 0 leaves it out."""


@dataclass(frozen=True)
class ObjectiveRecipe:
    """What plain text trains; rows with questions train their answers, whatever this says."""

    kind: str = "answers"
    """answers: there is no text. lm: every next token. jrt: the paper's equation (5), masked tokens in the
    encoder region and next tokens after it."""
    mlm_weight: float = 0.25
    mask_share: float = 0.15
    """Share of the encoder's tokens that the mask token replaces."""
    mask_token: int = -1
    """Id of the mask token; -1 takes the tokenizer's <mask> or [MASK], else the model's last row where the
    tokenizer has none for it."""
    encoder_tokens: tuple[int, ...] = (0,)
    """Length of the encoder region, or the least and the greatest of lengths drawn evenly; 0 is half of the
    sequence."""


@dataclass(frozen=True)
class EvalRecipe:
    """Recall on dev documents while the model trains; the best checkpoint is chosen by it."""

    every: int = 250
    """Steps between two evaluations; 0 never evaluates."""
    questions: int = 48
    """Questions of each set."""
    sets: tuple[str, ...] = ("train:256", "train:512")
    """"split:tokens" as `jrtcli.train.data.examples` has them, or "qa-dev:tokens"."""
    max_new_tokens: int = 24
    text_tokens: int = 16384
    """Tokens of held-out text whose loss is taken, where a run has text; 0 for none."""


@dataclass(frozen=True)
class Stage:
    """A part of the run: its share of the steps, its factor on the rates, its changes to [data]."""

    share: float
    lr: float = 1.0
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """All that decides what a run computes."""

    steps: int
    seed: int = 0
    tokenizer: str = ""
    """Path of tokenizer.json, relative to the recipe."""
    output: str = "runs/train"
    minutes: float = 0.0
    """Stop after so much time, whatever step it is; 0 never."""
    template: str = "qcq"
    """The template that the trained model reads with; written beside the weights."""
    precision: str = "auto"
    ema: float = 0.0
    """Decay of the moving average of the weights that is evaluated and saved; 0 keeps none."""
    log_every: int = 25
    save_every: int = 250
    workers: int = 0
    """Processes that make batches; 0 is one thread."""
    tensorboard: str = "auto"
    """Event files in the run's folder: auto (where tensorboard is installed), on, off."""
    cache: str = ""
    """Folder of tokenised text and indexed rows; "" is the user's cache folder."""
    model: ModelRecipe = ModelRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    loss: LossRecipe = LossRecipe()
    objective: ObjectiveRecipe = ObjectiveRecipe()
    eval: EvalRecipe = EvalRecipe()
    data: dict[str, Any] = field(default_factory=dict)
    """Fields of `jrtcli.train.data.DataConfig` and of `jrtcli.train.sources.Sources`."""
    curriculum: tuple[Stage, ...] = (Stage(1.0),)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for JSON."""
        return asdict(self)


T = TypeVar("T")


def _build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a dataclass from a table; `where` names the table in errors."""
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    made = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else key
        if key not in known:
            raise UsageError(f"recipe: unknown key {name!r}; {where or 'the top'} has {', '.join(known)}")
        made[key] = _convert(hints[key], value, name)
    missing = [f for f in ("steps", "share") if f in known and f not in made]
    if missing:
        raise UsageError(f"recipe: {where + '.' if where else ''}{missing[0]} is missing")
    return cls(**made)


def _convert(hint: Any, value: Any, name: str) -> Any:
    if isinstance(hint, type) and is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UsageError(f"recipe: {name} must be a table")
        return _build(hint, value, name)
    if hint == tuple[Stage, ...]:
        return tuple(_stage(v, f"{name}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    origin = getattr(hint, "__origin__", hint)
    if hint == tuple[int, ...]:
        return _whole_numbers(value, name)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(value)
    if not isinstance(value, origin) or (isinstance(value, bool) and origin is not bool):
        raise UsageError(f"recipe: {name} must be {getattr(origin, '__name__', origin)}, not {value!r}")
    return value


def _whole_numbers(value: Any, name: str) -> tuple[int, ...]:
    """One number or [least, greatest]."""
    listed = (value,) if isinstance(value, int) else value
    whole = isinstance(listed, (list, tuple)) and all(type(n) is int and n >= 0 for n in listed)
    if not whole or len(listed) not in (1, 2) or list(listed) != sorted(listed):
        raise UsageError(f"recipe: {name} must be a number or [least, greatest], not {value!r}")
    return tuple(listed)


def _stage(values: Any, where: str) -> Stage:
    """A curriculum entry: `share`, `lr`, and any fields of [data] beside them."""
    if not isinstance(values, Mapping):
        raise UsageError(f"recipe: {where} must be a table")
    own = {k: v for k, v in values.items() if k in ("share", "lr", "data")}
    rest = {k: v for k, v in values.items() if k not in own}
    own["data"] = {**own.get("data", {}), **rest}
    return _build(Stage, own, where)


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values. Raises UsageError naming the key that is unknown or wrong."""
    recipe = _build(Recipe, values, "")
    if recipe.steps < 1:
        raise UsageError("recipe: steps must be at least 1")
    if recipe.optimizer.decay not in DECAYS:
        raise UsageError(f"recipe: optimizer.decay must be one of {', '.join(DECAYS)}")
    if recipe.precision not in PRECISIONS:
        raise UsageError(f"recipe: precision must be one of {', '.join(PRECISIONS)}")
    if recipe.objective.kind not in OBJECTIVES:
        raise UsageError(f"recipe: objective.kind must be one of {', '.join(OBJECTIVES)}")
    if not 0 < recipe.objective.mask_share < 1 or recipe.objective.mlm_weight < 0:
        raise UsageError(
            "recipe: objective.mask_share must be in (0, 1) and objective.mlm_weight not below 0"
        )
    if recipe.tensorboard not in BOARDS:
        raise UsageError(f"recipe: tensorboard must be one of {', '.join(BOARDS)}")
    if not recipe.curriculum or abs(sum(s.share for s in recipe.curriculum) - 1) > 1e-6:
        raise UsageError("recipe: the shares of curriculum must add up to 1")
    if not 0 <= recipe.ema < 1:
        raise UsageError("recipe: ema must be in [0, 1)")
    return recipe


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file and apply `a.b=value` overrides (values are TOML, or else text).

    Paths (tokenizer, cache, every text and every *_paths in [data]) are taken relative to the file, and so is
    model.init_from where a folder of that name is there.
    Raises UsageError for a file that is missing or is not TOML, and for unknown keys.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from None
    for override in overrides:
        _override(values, override)
    recipe = from_dict(values)
    here = path.parent

    def beside(name: str) -> str:
        return str(here / name) if name else name

    def placed(key: str, value: Any) -> Any:
        if key.endswith("_paths"):
            listed = [value] if isinstance(value, str) else value
            if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
                raise UsageError(f"recipe: data.{key} must be a list of paths, not {value!r}")
            return [beside(name) for name in listed]
        return beside(value) if isinstance(value, str) else value

    start = recipe.model.init_from
    return replace(
        recipe,
        tokenizer=beside(recipe.tokenizer),
        cache=beside(recipe.cache),
        model=replace(recipe.model, init_from=beside(start) if (here / start).is_dir() else start),
        data={key: placed(key, value) for key, value in recipe.data.items()},
        curriculum=tuple(
            replace(stage, data={key: placed(key, value) for key, value in stage.data.items()})
            for stage in recipe.curriculum
        ),
    )


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {override}: write it as key=value, for instance optimizer.muon_lr=0.01")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *parents, last = key.strip().split(".")
    table: Any = values
    for i, name in enumerate([*parents, last]):
        if isinstance(table, list):
            if not name.isdigit() or int(name) >= len(table):
                raise UsageError(f"--set {override}: there is no entry {name!r}; it has {len(table)}")
            index: Any = int(name)
        elif isinstance(table, dict):
            index = name
        else:
            raise UsageError(f"--set {override}: {'.'.join(parents[:i])} is not a table")
        if i == len(parents):
            table[index] = value
        else:
            table = table[index] if isinstance(table, list) else table.setdefault(index, {})
