"""FDA: the value of an attribute in the text of an FDA 510(k) decision summary (based_fda)."""

from __future__ import annotations

from jrtcli.tasks import key_value
from jrtcli.tasks.task import Task


def ended(text: str) -> str:
    """The document with one full stop, line breaks and stops at its ends taken off as published."""
    shown = text.strip("\n").strip(".")
    return shown if shown.endswith(".") else shown + "."


TASK = Task(
    name="fda",
    description="attributes of FDA 510(k) reviews",
    datasets={1000: "hazyresearch/based-fda"},
    fields=key_value.FIELDS,
    cut_field="text",
    answer_keys=key_value.ANSWER_KEYS,
    once=key_value.once(ended),
    twice=key_value.twice(ended),
    document=key_value.body,
    question=key_value.question,
    golds=key_value.golds,
    from_qa=key_value.from_qa,
)
