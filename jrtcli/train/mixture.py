"""Where documents come from: the mixture of sources, for training and for evaluation."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import NamedTuple

from jrtcli.train import corpora, rows
from jrtcli.train.rows import Source
from jrtcli.train.values import Draw

# Somewhat more than documents have, for training: a context is then cut at its length and few are shorter.
CHARS_PER_TOKEN = {"generator": 2.65, "fda": 3.3, "squad": 2.85}
_PLAIN_CHARS = {"heldout": 2.2}  # per token of whole documents of the generator; 2.4 in the other splits
_SHORTEST = {"generator": 0, "fda": 96, "squad": 192}  # document tokens below which a source is not used


@dataclass(frozen=True)
class DataConfig:
    """What batches are made of. Paths that are empty leave their source out.

    The caller sets `document_tokens` per step (`dataclasses.replace`): the curriculum is the recipe's
    business. `lm_weight` must be 0 where the model's encoder sees the tokens that it would have to predict
    (JRT-RNN).
    """

    seed: int = 0
    document_tokens: int = 128
    tokens_per_step: int = 6144
    generator: float = 0.7  # weights of the sources
    fda: float = 0.2
    squad: float = 0.1
    fda_docs: str = ""
    fda_labels: str = ""
    squad_path: str = ""
    prose: str = ""
    qcq: float = 0.6  # weights of the templates
    cq: float = 0.25
    cqcq: float = 0.15
    one: float = 0.4  # weights of listing 1, 2, or half to all of the questions
    two: float = 0.2
    many: float = 0.4
    max_questions: int = 16
    swap: float = 0.5  # share of regulatory values replaced
    shorter: float = 0.2  # share of steps at a half or a quarter of `document_tokens`
    first_weight: float = 3.0  # loss weight of an answer's first token; the others and the newline have 1
    answer_tokens: int = 32  # of an answer carry loss
    lm_weight: float = 0.15
    lm_first: float = 0.1  # share of context tokens with `lm_weight`, first and second reading
    lm_second: float = 0.3


class Example(NamedTuple):
    """A question for evaluation."""

    id: str
    context: str
    question: str
    answers: tuple[str, ...]


def source(config: DataConfig, d: Draw, length: int) -> Source:
    """A document of about `length` tokens or somewhat more, from a source drawn by weight."""
    names = ["generator"]
    if config.fda_docs and length >= _SHORTEST["fda"]:
        names.append("fda")
    if config.squad_path and length >= _SHORTEST["squad"]:
        names.append("squad")
    r = d.random() * sum(getattr(config, name) for name in names)
    name = names[-1]
    for candidate in names:
        r -= getattr(config, candidate)
        if r < 0:
            name = candidate
            break
    chars = int(length * CHARS_PER_TOKEN[name])
    if name == "fda":
        doc = d.of(corpora.labelled(config.fda_docs, config.fda_labels, False))
        return rows.regulatory(d, doc, rows.by_key(config.fda_docs, config.fda_labels), chars, config.swap)
    if name == "squad":
        return rows.passages(d, corpora.paragraphs(config.squad_path, False), chars)
    return rows.generated(d, chars)


def prose(config: DataConfig) -> tuple[str, ...]:
    """Real sentences for distractors and values."""
    return _sentences(config.prose, config.fda_docs, config.fda_labels)


@functools.cache
def _sentences(prose: str, docs: str, labels: str) -> tuple[str, ...]:
    """Real sentences: of books, and about as many of regulatory documents."""
    real = corpora.sentences(prose) if prose else ()
    return real + corpora.label_prose(docs, labels) if docs else real


def examples(config: DataConfig, split: str, n: int, length: int) -> list[Example]:
    """`n` questions for evaluation, one per document where the split has that many documents.

    split: one of the generator's splits, with documents of about `length` tokens; or "fda-dev" (the first
    4,000 characters, or as far as the value lies; `length` is not used) or "squad-dev" (paragraphs up to
    `length` tokens). The same arguments give the same questions. Raises KeyError for another split.
    """
    d = Draw(random.Random(f"examples/{config.seed}/{split}/{length}").getrandbits(64), prose(config))
    if split == "fda-dev":
        docs = corpora.labelled(config.fda_docs, config.fda_labels, True)
        every = [found for doc in docs for found in rows.each_field(doc, 4000)]
        every.sort(key=lambda _: d.random())
        return [_example(name, source, 0) for name, source in every[:n]]
    made = []
    for i in range(n):
        if split == "squad-dev":
            found = corpora.paragraphs(config.squad_path, True)
            made_source = rows.passages(d, found, int(length * CHARS_PER_TOKEN["squad"]))
        else:
            made_source = rows.generated(d, int(length * _PLAIN_CHARS.get(split, 2.4)), split)
        made.append(_example(f"{split}-{length}-{i}", made_source, d.below(len(made_source.asked))))
    return made


def _example(name: str, source: Source, which: int) -> Example:
    fact = source.asked[which]
    return Example(name, source.context, fact.question, (fact.answer,))
