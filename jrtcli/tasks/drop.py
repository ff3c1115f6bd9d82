"""DROP: a sentence to complete about a paragraph, with counting and comparing (based_drop)."""

from __future__ import annotations

from jrtcli.tasks import cloze
from jrtcli.tasks.task import Task

TASK = Task(
    name="drop",
    description="discrete reasoning on paragraphs",
    datasets={1000: "hazyresearch/based_drop"},
    fields=cloze.FIELDS,
    cut_field="context",
    answer_keys=(),
    once=cloze.once(),
    twice=cloze.twice(),
    document=cloze.body,
    question=cloze.question,
    golds=cloze.golds,
    from_qa=cloze.from_qa,
)
