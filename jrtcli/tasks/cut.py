"""Cutting a document to a length: the paper's oracle window, which lies around the gold answer, and the
beginning of the document, which knows no answer.

Source: truncate_context of HazyResearch/prefix-linear-attention (lm-eval-harness, api/task.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jrtcli.tasks.task import Row, Task
    from jrtcli.tokens import Tokenizer

ANSWER_TOKENS = 50
"""Of the length, left for the answer."""


def cut(task: Task, row: Row, tokenizer: Tokenizer, length: int, *, oracle: bool = True) -> Row | None:
    """The row with its document cut to `length` - ANSWER_TOKENS tokens of the model that is evaluated.

    oracle: the window is centred on the first place where one of the task's answer keys stands; where none
    does it is the tail; without answer keys, or oracle, it is the beginning. None: the row is dropped,
    because an answer key is empty or one character long, as published.
    """
    text = row[task.cut_field].strip()
    keys = task.answer_keys if oracle else ()
    golds = [_first(row[name]) for name in keys]
    if any(len(gold) <= 1 for gold in golds):
        return None
    return {**row, task.cut_field: window(text, golds, tokenizer, length - ANSWER_TOKENS)}


def window(text: str, golds: list[str], tokenizer: Tokenizer, keep_tokens: int) -> str:
    """The window of a text: at most keep_tokens tokens, half of them before the first gold that it holds."""
    found = [m.start() for gold in golds if (m := re.search(re.escape(gold), text, re.IGNORECASE))]
    at = min(found) if found else -1 if golds else 0
    # Tokenised on its own, as published; -1 is the last character.
    before = len(tokenizer.encode(text[:at], first=True)) if text[:at] else 0
    ids = tokenizer.encode(text, first=True)
    start = max(0, before - keep_tokens // 2)
    end = min(len(ids), start + keep_tokens)
    if start == 0 and end == len(ids):
        return text
    return tokenizer.decode(ids[start:end])


def _first(value: object) -> str:
    if isinstance(value, list | tuple):
        value = value[0] if value else ""
    return str(value)
