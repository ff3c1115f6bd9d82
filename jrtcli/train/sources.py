"""The data of a run beside the documents of [data]: plain text and question rows, and the mixture of the
three.

A step's batch comes from one source, drawn by weight with the run's seed: documents (weight: that of
generator, fda and squad together), qa, text. A recipe without qa and text has the batches of `data.batch`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from jrt_prompts import PromptError, load_template
from jrtcli.errors import UsageError
from jrtcli.train.cache import cache_root
from jrtcli.train.config import Recipe
from jrtcli.train.data import DataConfig
from jrtcli.train.data import batch as document_batch
from jrtcli.train.events import Event, Noted, Preparing
from jrtcli.train.qa_data import QAConfig, qa_batch
from jrtcli.train.qa_store import index_rows, side
from jrtcli.train.text_data import TextBatch, TextConfig, held_out_batches, sequences, text_batch
from jrtcli.train.token_cache import tokenise

MASK_TOKENS = ("<mask>", "[MASK]", "<|mask|>")


@dataclass(frozen=True)
class Sources:
    """Further keys of [data]. Paths are files, folders or globs."""

    text: float = 0.0  # weights, beside generator, fda and squad
    qa: float = 0.0
    text_paths: tuple[str, ...] = ()
    text_tokens: int = 0  # greatest length of a sequence of text; 0: document_tokens
    qa_paths: tuple[str, ...] = ()
    qa_templates: tuple[str, ...] = ("qcq",)
    qa_reads: int = 0  # readings of the context; 0: as many as the template has


@dataclass(frozen=True)
class Stage:
    """The data of a curriculum stage: each source with its weight, those of weight 0 are None."""

    documents: DataConfig | None
    documents_weight: float
    qa: QAConfig | None
    qa_weight: float
    text: TextConfig | None
    text_weight: float
    seed: int
    document_tokens: int
    """Of the longest documents that are asked about; 0 where there is only text."""


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made."""

    stages: tuple[Stage, ...]
    held_out: Sequence[TextBatch]
    has_questions: bool
    mask_token: int | None


def batch(stage: Stage, tokenizer: Tokenizer, step: int) -> Any:
    """The batch of `step`: a pure function of its arguments and of the files."""
    weights = (stage.documents_weight, stage.qa_weight, stage.text_weight)
    (drawn,) = random.Random(f"source/{stage.seed}/{step}").choices(range(3), weights)
    if drawn == 0:
        assert stage.documents is not None
        return document_batch(stage.documents, tokenizer, step)
    if drawn == 1:
        assert stage.qa is not None
        return qa_batch(stage.qa, step)
    assert stage.text is not None
    return text_batch(stage.text, step)


def prepare(
    recipe: Recipe,
    documents: Sequence[DataConfig],
    extra: Sequence[Sources],
    tokenizer: Tokenizer,
    tokenizer_file: str,
    model: Any,
    say: Callable[[Event], None],
) -> Prepared | None:
    """Tokenise and index what the stages name; None where there are documents only.

    model: gives its rows of the vocabulary and whether it has an encoder. Raises UsageError for weights
    without files, an objective that does not fit the model, or no mask token.
    """
    if not any(found.text > 0 or found.qa > 0 for found in extra):
        return None
    root = cache_root(recipe.cache)
    has_text = any(found.text > 0 for found in extra)
    mask = check_objective(recipe, tokenizer, model) if has_text else None

    def progress(what: str) -> Callable[[int, int], None]:
        return lambda done, total: say(Preparing(what, done, total))

    stages = []
    for config, found in zip(documents, extra, strict=True):
        weight = config.generator + (config.fda if config.fda_docs else 0.0)
        weight += config.squad if config.squad_path else 0.0
        qa = text = None
        if found.qa > 0:
            _need(found.qa_paths, "qa")
            _check_templates(found)
            folder = str(index_rows(found.qa_paths, root, progress("indexing rows")))
            qa = QAConfig(folder, tokenizer_file, config, found.qa_templates, found.qa_reads)
        if found.text > 0:
            _need(found.text_paths, "text")
            length = found.text_tokens or config.document_tokens
            if not 2 <= length <= config.tokens_per_step:
                raise UsageError(f"recipe: data.text_tokens {length} is not in 2..data.tokens_per_step")
            folder = str(tokenise(found.text_paths, tokenizer, root, progress("tokenising text")))
            objective = recipe.objective
            text = TextConfig(
                folder=folder,
                seed=config.seed,
                length=length,
                tokens_per_step=config.tokens_per_step,
                kind=objective.kind,
                mask_token=-1 if mask is None else mask,
                mask_share=objective.mask_share,
                encoder_tokens=objective.encoder_tokens,
            )
            if not len(sequences(folder, length, False)):
                raise UsageError(f"{', '.join(found.text_paths)}: not a single sequence of two tokens")
        total = weight + found.qa + found.text
        if total <= 0:
            raise UsageError("recipe: a stage of [data] has no source with a weight above 0")
        asked = config.document_tokens if weight > 0 or qa is not None else 0
        kept = config if weight > 0 else None
        stages.append(Stage(kept, weight, qa, found.qa, text, found.text, config.seed, asked))
    longest = max((s.text for s in stages if s.text is not None), key=lambda t: t.length, default=None)
    held = [] if longest is None else held_out_batches(longest, recipe.eval.text_tokens)
    if longest is not None and recipe.eval.every and recipe.eval.text_tokens and not held:
        say(Noted("the text is too short to hold a part of it out: no loss is measured on it"))
    asks = any(stage.documents is not None or stage.qa is not None for stage in stages)
    return Prepared(tuple(stages), held, asks, mask)


def check_objective(recipe: Recipe, tokenizer: Tokenizer, model: Any) -> int | None:
    """The mask token of a recipe with text, None where none is used. Raises UsageError for what cannot be."""
    objective = recipe.objective
    if objective.kind == "answers":
        raise UsageError("recipe: text needs objective.kind = 'lm', or 'jrt' for JRT-RNN")
    if objective.kind == "lm":
        if model.has_encoder:
            raise UsageError(
                "recipe: the encoder of JRT-RNN sees the next tokens of a text: take objective.kind = 'jrt'"
            )
        return None
    if not model.has_encoder:
        raise UsageError(f"recipe: objective.kind 'jrt' needs an encoder, which {model.architecture} has not")
    rows, known = model.vocab_size, tokenizer.get_vocab_size()
    if objective.mask_token >= 0:
        if objective.mask_token >= rows:
            raise UsageError(
                f"recipe: objective.mask_token {objective.mask_token}: the model has {rows} rows"
            )
        return objective.mask_token
    named = [token for name in MASK_TOKENS if (token := tokenizer.token_to_id(name)) is not None]
    if named and named[0] < rows:
        return named[0]
    if rows > known:
        return rows - 1
    raise UsageError(
        f"recipe: the {rows} rows of the model are all tokens: name one as objective.mask_token, or make "
        "the model's vocab_size greater by one"
    )


def _need(paths: tuple[str, ...], kind: str) -> None:
    if not paths:
        raise UsageError(f"recipe: data.{kind} has a weight, but data.{kind}_paths names no files")


def _check_templates(found: Sources) -> None:
    if not found.qa_templates or not all(isinstance(name, str) for name in found.qa_templates):
        raise UsageError("recipe: data.qa_templates must be a list of template names")
    try:
        for name in found.qa_templates:
            template = load_template(name)
            template.check_reads(found.qa_reads or template.default_reads)
    except PromptError as error:
        raise UsageError(f"recipe: data.qa_templates: {error}") from None


def has_held_out_questions(stage: Any) -> bool:
    """Whether a stage's question rows have a held-out side."""
    qa = getattr(stage, "qa", None)
    return qa is not None and len(side(qa.folder, True)) > 0
