"""How an answer went wrong: the three modes of the paper (appendix E, Table 13), which make up all errors."""

from __future__ import annotations

from jrtcli.metrics import normalize

EMPTY, REPETITION, IRRELEVANT = "empty", "repetition", "irrelevant"
MODES = (EMPTY, REPETITION, IRRELEVANT)
"""No answer; a stretch of the input said again; anything else. The paper does not say where it draws the
line: here an answer is a repetition if its words, in SQuAD's normal form, stand in the input together."""


def error_mode(answer: str, read: str) -> str:
    """The mode of a wrong answer. read: document and question."""
    words = normalize(answer)
    if not words:
        return EMPTY
    return REPETITION if f" {words} " in f" {normalize(read)} " else IRRELEVANT
