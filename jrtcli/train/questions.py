"""Questions of training, made of any words around the field name, beside those that are listed."""

from __future__ import annotations

import functools

from jrtcli.train.basics import Draw
from jrtcli.train.words import lexicon, word_lists


@functools.cache
def free_words() -> tuple[str, ...]:
    """Words for random wordings: the lexicon without the connectives and asking verbs that are held out."""
    lists = word_lists("wordings.txt")
    held = {
        word
        for name in ("heldout connectives", "heldout asking")
        for entry in lists[name]
        for word in entry.split()
    }
    return tuple(word for word in lexicon(True).words if word not in held)


def _some(d: Draw, low: int, high: int) -> str:
    return " ".join([d.of(free_words()) for _ in range(low + d.below(high - low + 1))])


_BARE = (
    "{K}", "{K}", "{K}", "{K}:", "{K}:", "{K}:", "{K}?", "{K}?", "the {K}", "The {K}?", "the {K}:",
    "{K} ...", "{K}.", "{K} =", "({K})", '"{K}"', "{K} -", "- {K}", "{K} :", "{K} ?", "{K}: ?", "{K}: ___",
    "1. {K}", "{K};", "its {K}", "any {K}",
)  # fmt: skip
_ENDS = ("?", "?", "?", "", "", ".", ":", "!", " ?", "...", ", please.", ", please?", " please")
_DETERMINERS = ("the ", "the ", "the ", "", "its ", "this ", "a ", "that ", "any ", "our ", "your ", "their ")
_CUTS = (" ", " ", " ", ", ", ": ", " - ", "; ", "? ", ". ", " (", ' "')


def bare(d: Draw) -> str:
    """The field name and hardly more."""
    return d.of(_BARE)


def made_up(d: Draw) -> str:
    """A question that is in no list, with `{K}` in it."""
    r = d.random()
    if r < 0.45:  # an asking word from the list, then words
        head = d.of(word_lists("wordings_wide.txt")["asking"])
        filler = _some(d, 0, 3) if d.random() < 0.6 else ""
        text = f"{head} {filler + ' ' if filler else ''}{d.of(_DETERMINERS)}{{K}}"
    elif r < 0.75:  # words before it
        text = _some(d, 0, 5)
        text = (text + d.of(_CUTS) if text else "") + d.of(_DETERMINERS) + "{K}"
    else:
        text = "{K}"
    if d.random() < 0.4:
        text += d.of(_CUTS) + _some(d, 1, 4)
    if text.count(' "') == 1:
        text += '"'
    if "(" in text:
        text += ")"
    text += d.of(_ENDS)
    r = d.random()
    return text[:1].upper() + text[1:] if r < 0.6 else text
