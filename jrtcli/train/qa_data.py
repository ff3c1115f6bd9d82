"""Batches of question rows, in the form of any prompt template, read any number of times.

`qa_batch(config, step)` is a pure function. A row is one context with k questions: before and between the
readings the template's question part lists all k, after the last reading they are asked one after another, in
another order, each followed by its answer. Only the answers carry loss. With k = 1 a row is, id by id, what
`jrt ask` would read, and the answer.

Symbols: B rows, T tokens, L tokens of a context.
"""

from __future__ import annotations

import functools
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jrt_prompts import Prompt, Segment, Template, load_template
from jrtcli.errors import UsageError
from jrtcli.tokens import Tokenizer, load_tokenizer
from jrtcli.train.data import Batch, DataConfig, Row, alike, how_many, padded
from jrtcli.train.qa_store import Group, read_group, side

MARGIN_CHARS = 80
"""Of the text before an answer, kept in a cut where it is no more than half of it: it may name the field."""


@dataclass(frozen=True)
class QAConfig:
    """folder: of the rows' index. documents: how long contexts and how many questions, as in [data].
    templates are drawn evenly; reads: readings of each, 0 for the template's own number."""

    folder: str
    tokenizer: str
    documents: DataConfig
    templates: tuple[str, ...]
    reads: int = 0


@functools.cache
def _tokenizer(path: str) -> Tokenizer:
    return load_tokenizer(Path(path))


@functools.cache
def _template(name: str) -> Template:
    return load_template(name)


def qa_batch(config: QAConfig, step: int) -> Batch:
    """The batch of `step`, about `tokens_per_step` tokens. Raises UsageError where no row has an answer."""
    d = random.Random(f"qa/{config.documents.seed}/{step}")
    documents = config.documents
    length = documents.document_tokens
    if d.random() < documents.shorter:
        length = max(64, length // (2 if d.random() < 0.6 else 4))
    mode = d.random() * (documents.one + documents.two + documents.many)
    template = _template(d.choice(config.templates))
    groups = side(config.folder, False)
    made: list[Row] = []
    filled, tries = 0.0, 0
    while filled < 1.4 * documents.tokens_per_step or not made:
        tries += 1
        group = read_group(config.folder, int(groups[d.randrange(len(groups))]))
        row = qa_row(config, d, group, template, length, mode)
        if row is not None:
            made.append(row)
            filled += len(row.tokens)
        elif tries > 1000 and not made:
            raise UsageError(f"data.qa_paths: no context of 1000 has an answer in {length} tokens")
    return padded(alike(made, d.randrange, documents.tokens_per_step))


def qa_row(
    config: QAConfig, d: random.Random, group: Group, template: Template, length: int, mode: float
) -> Row | None:
    """A row of a group, its context cut to about `length` tokens; None if no answer is left in it."""
    tokenizer = _tokenizer(config.tokenizer)
    context, pairs = window(tokenizer, group, length, d)
    if not pairs:
        return None
    listing = template.render(context, "?", reads=config.reads or None).segments
    before = any(s.role == "question" for s in listing[: _last_context(listing)])
    k = how_many(config.documents, d.randrange, "qcq" if before else "cq", mode, len(pairs))
    chosen = d.sample(range(len(pairs)), k)
    asked = d.sample(chosen, k)
    prompts = [template.render(context, pairs[i][0], reads=config.reads or None) for i in range(len(pairs))]
    heads = heads_of([prompts[i] for i in chosen])
    ids: list[int] = []
    ends: Sequence[int] = ()
    for head in heads:
        new, ends = tokenizer.encode_with_ends(head, first=not ids)
        ids += new
    encoder_length = len(ids)
    weights = [0.0] * len(ids)
    tags = np.full(encoder_length, -1, dtype=np.int8)
    if before:
        shown = prompts[0].segments[prompts[0].last_context].text
        lead, start = len(heads[-1]) - len(shown), encoder_length - len(ends)
        for i, (_, answers) in enumerate(pairs):
            at = shown.find(answers[0])
            if at >= 0:
                first = bisect_right(ends, lead + at)
                last = bisect_left(ends, lead + at + len(answers[0])) + 1
                tags[start + first : start + last] = i in chosen
    newline = tokenizer.encode("\n", first=False)
    ended = 0.0  # the weight of the line break that ends the answer before
    for n, i in enumerate(asked):
        tail = tail_of(prompts[i])
        piece = tokenizer.encode("\n" + tail.lstrip() if n else tail, first=False)
        starts = [ended if piece[:1] == newline[:1] else 0.0] if n else [0.0]
        ids += piece
        weights += starts + [0.0] * (len(piece) - 1)
        answer = tokenizer.encode(" " + pairs[i][1][0], first=False)
        said = min(len(answer), config.documents.answer_tokens)
        ids += answer
        weights += [config.documents.first_weight] + [1.0] * (said - 1) + [0.0] * (len(answer) - said)
        ended = 1.0 if len(answer) < config.documents.answer_tokens else 0.0
    ids += newline[:1]
    weights += [ended] * len(newline[:1])
    whole = np.full(len(ids), -1, dtype=np.int8)
    whole[:encoder_length] = tags
    return Row(np.array(ids, dtype=np.int64), np.array(weights, dtype=np.float32), encoder_length, whole)


def _last_context(segments: Sequence[Segment]) -> int:
    return max(i for i, segment in enumerate(segments) if segment.role == "context")


def heads_of(prompts: Sequence[Prompt]) -> list[str]:
    """The text of several questions' prompts up to the end of each reading, all questions where one stood.

    A part of the prompt that holds the question comes once per question, on lines of their own: the white
    space around the part stands around the list.
    """
    model = prompts[0].segments
    heads: list[str] = []
    part: list[int] = []
    for i in range(prompts[0].last_context + 1):
        if model[i].role != "context":
            part.append(i)
            continue
        texts = ["".join(prompt.segments[j].text for j in part) for prompt in prompts]
        if any(model[j].role == "question" for j in part):
            core = texts[0].strip()
            lead = texts[0][: texts[0].index(core)]
            texts[0] = lead + "\n".join(text.strip() for text in texts) + texts[0][len(lead) + len(core) :]
        heads.append(texts[0] + model[i].text)
        part = []
    return heads


def tail_of(prompt: Prompt) -> str:
    """The text of a prompt after its last reading."""
    return "".join(segment.text for segment in prompt.segments[prompt.last_context + 1 :])


def window(
    tokenizer: Tokenizer, group: Group, length: int, d: random.Random
) -> tuple[str, list[tuple[str, tuple[str, ...]]]]:
    """A context of at most about `length` tokens and the questions that it answers.

    A long one is cut around an answer drawn; questions whose answer stands nowhere in the text are kept only
    where the text is whole. Of several answers the first that stands there comes first.
    """
    pairs = [(question, _standing_first(group.context, answers)) for question, answers in group.pairs]
    ids, ends = tokenizer.encode_with_ends(group.context, first=False)
    if len(ids) <= length:
        return group.context, pairs
    placed = [(group.context.find(answers[0]), answers[0]) for _, answers in pairs]
    places = [(at, at + len(answer)) for at, answer in placed if at >= 0]
    if not places:
        return "", []
    start, stop = d.choice(places)
    last, least = bisect_left(ends, stop), bisect_right(ends, start) - length // 2
    first = max(0, least, bisect_right(ends, start - MARGIN_CHARS))
    slack = max(0, length - (last + 1 - first))
    begin = max(0, min(first - d.randrange(slack + 1), len(ids) - length))
    a, b = (ends[begin - 1] if begin else 0), max(stop, ends[min(len(ids), begin + length) - 1])
    if a and (space := group.context.find(" ", a - 1, start)) >= 0:  # whole words
        a = space + 1
    if b < len(group.context) and (space := group.context.rfind(" ", stop, b + 1)) >= 0:
        b = space
    text = group.context[a:b].strip()
    return text, [pair for pair in pairs if pair[1][0] in text]


def _standing_first(context: str, answers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(answers, key=lambda answer: answer not in context))


def qa_examples(
    config: QAConfig, n: int, length: int, seed: int
) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """`n` held-out questions, or as many as there are: (id, context, question, answers), contexts cut to
    about `length` tokens (0: whole)."""
    d = random.Random(f"qa-dev/{seed}/{length}")
    numbers = side(config.folder, True).tolist()
    d.shuffle(numbers)
    made = 0
    for number in numbers:
        group = read_group(config.folder, number)
        context, pairs = window(_tokenizer(config.tokenizer), group, length or 1 << 40, d)
        if pairs and made < n:
            question, answers = d.choice(pairs)
            made += 1
            yield f"{group.id}", context, question, answers


def at_length(config: QAConfig, length: int) -> QAConfig:
    """The same with contexts of another length."""
    return replace(config, documents=replace(config.documents, document_tokens=length))
