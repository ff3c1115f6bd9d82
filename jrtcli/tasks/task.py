"""Task: how rows of a published data set become documents, questions, prompts and gold answers.

The prompts are those of the paper's release (HazyResearch/prefix-linear-attention, lm-eval-harness, tasks
based_*), once and twice; none of them ends in white space, so both scorings read the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jrt_prompts import Prompt, Segment
from jrtcli.errors import DocumentError

STOP = ("\n",)
"""Where an answer ends (paper, appendix B.5)."""

CONTEXT_LENGTH_TOKENS = 1000
"""Of the paper's Table 1: the longest document, and room for the answer."""

ONCE, TWICE = "once", "twice"
"""The names of a task's own prompts, beside those of templates."""

Row = Mapping[str, Any]
Written = Callable[[Row], tuple[Segment, ...]]


@dataclass(frozen=True)
class Task:
    """One recall task.

    datasets: length in tokens -> hub id, one entry where the length does not matter. fields: what its
    published rows have. cut_field: the field with the document, which is cut. answer_keys: the fields that
    the oracle window is laid around; none: the window begins at the beginning. once, twice: the published
    prompts of a row; None: a QA file, whose prompts are templates. document, question, golds: of a row, for
    templates and for scoring. from_qa: a row of context, question and answers as a row of this task. whole:
    drops of the document what no prompt shows, before it is cut. cut_length_tokens: a cut whatever the length
    (NQ, whose data sets are cut already).
    """

    name: str
    description: str
    datasets: Mapping[int, str]
    fields: tuple[str, ...]
    cut_field: str
    answer_keys: tuple[str, ...]
    once: Written | None
    twice: Written | None
    document: Callable[[Row], str]
    question: Callable[[Row], str]
    golds: Callable[[Row], tuple[str, ...]]
    from_qa: Callable[[Row], dict[str, Any]]
    whole: Callable[[str], str] = str
    metric: str = "contains"
    length_tokens: int | None = CONTEXT_LENGTH_TOKENS
    cut_length_tokens: int | None = None
    orders: tuple[str, ...] = field(default=(ONCE, TWICE))

    def row(self, given: Row, where: str) -> dict[str, Any]:
        """A row of this task, from one of its data set or from a QA row. where: names it in an error.

        Raises DocumentError for a row that is neither.
        """
        if not all(name in given for name in self.fields):
            if not {"context", "question", "answers"} <= given.keys():
                raise DocumentError(
                    f"{where}: no row of {self.name}: it has neither {', '.join(self.fields)} nor context,"
                    " question, answers"
                )
            _check_qa(given, where)
            given = self.from_qa(given)
        made = dict(given)
        text = made[self.cut_field]
        if not isinstance(text, str) or not text.strip():
            raise DocumentError(f"{where}: {self.cut_field} holds no text")
        made[self.cut_field] = self.whole(text)
        return made

    def dataset(self, length: int | None) -> str:
        """The hub id of the data for documents of so many tokens."""
        wanted = CONTEXT_LENGTH_TOKENS if length is None else length
        return self.datasets[min(self.datasets, key=lambda size: abs(size - wanted))]

    def written(self, row: Row, order: str) -> Prompt | None:
        """The published prompt of an order; None for the name of a template."""
        build = {ONCE: self.once, TWICE: self.twice}.get(order)
        return None if build is None else Prompt(build(row), STOP)


def _check_qa(row: Row, where: str) -> None:
    for name in ("context", "question"):
        if not isinstance(row[name], str) or not row[name].strip():
            raise DocumentError(f"{where}: {name} holds no text")
    if not golds_of(row["answers"]):
        raise DocumentError(f"{where}: answers holds no text")


def golds_of(answers: Any) -> tuple[str, ...]:
    """Gold answers: a text, a list of them, or SQuAD's {"text": [...]}."""
    if isinstance(answers, Mapping):
        answers = answers.get("text")
    listed = answers if isinstance(answers, list | tuple) else [answers]
    return tuple(str(gold) for gold in listed if isinstance(gold, str | int | float) and str(gold).strip())


def row_id(row: Row, number: int) -> str:
    """A row's own id, or its number. A doc_id is none: questions share it."""
    own = row.get("id")
    return f"row-{number}" if own is None else str(own)


def text_digest(text: str) -> str:
    """16 hex digits of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def without_end(text: str, end: str, *, case: bool = False) -> str:
    """A text without the copies of `end` that it ends with; case: capitals count."""
    if not end:
        return text
    while text.endswith(end) if case else text.lower().endswith(end.lower()):
        text = text[: -len(end)]
    return text
