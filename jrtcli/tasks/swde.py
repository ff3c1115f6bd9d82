"""SWDE: the value of an attribute on a web page about a movie or a university (based_swde)."""

from __future__ import annotations

from jrtcli.tasks import key_value
from jrtcli.tasks.task import Task

MARKER = "Summary of information above..."
"""Where the page ends and the published prompt begins; the rest is dropped."""


def page(text: str) -> str:
    """The page alone."""
    return text.split(MARKER)[0]


def ended(text: str) -> str:
    """The page with one full stop, however it ended."""
    return text.strip().strip(".").strip() + "."


TASK = Task(
    name="swde",
    description="attributes on web pages",
    datasets={1000: "hazyresearch/based-swde-v2"},
    fields=key_value.FIELDS,
    cut_field="text",
    answer_keys=key_value.ANSWER_KEYS,
    once=key_value.once(ended),
    twice=key_value.twice(ended),
    document=key_value.body,
    question=key_value.question,
    golds=key_value.golds,
    from_qa=key_value.from_qa,
    whole=page,
)
