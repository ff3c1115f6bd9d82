"""NQ: a sentence to complete about a Wikipedia page (based_nq_512, _1024, _2048)."""

from __future__ import annotations

from jrtcli.tasks import cloze
from jrtcli.tasks.task import Task

TASK = Task(
    name="nq",
    description="Natural Questions on Wikipedia pages",
    datasets={size: f"hazyresearch/based_nq_{size}" for size in (512, 1024, 2048)},
    fields=cloze.FIELDS,
    cut_field="context",
    answer_keys=("answers",),
    once=cloze.once(),
    twice=cloze.twice(),
    document=cloze.body,
    question=cloze.question,
    golds=cloze.golds,
    from_qa=cloze.from_qa,
    # The data sets carry the length in their names; the published runs cut them at 2,000.
    cut_length_tokens=2000,
)
