"""How an answer went wrong: the three modes of the paper (appendix E, Table 13), which make up all errors."""

from __future__ import annotations

from jrtcli.metrics import normalize

EMPTY, REPETITION, IRRELEVANT = "empty", "repetition", "irrelevant"
MODES = (EMPTY, REPETITION, IRRELEVANT)
"""No answer; a stretch of the input said again; anything else. The paper does not say where it draws the
line: here an answer is empty if it has no letter and no digit, and a repetition if its words, in SQuAD's
normal form, stand together in what the model was shown, examples and all."""


def error_mode(answer: str, read: str) -> str:
    """The mode of a wrong answer. read: what the model was shown."""
    if not any(letter.isalnum() for letter in answer):
        return EMPTY
    words, shown = normalize(answer), normalize(read)
    if not words:  # articles alone
        words, shown = " ".join(answer.lower().split()), " ".join(read.lower().split())
    return REPETITION if f" {words} " in f" {shown} " else IRRELEVANT
