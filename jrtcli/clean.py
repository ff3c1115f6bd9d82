"""What of a text may be shown on a terminal: nothing that acts on it instead of standing there."""

from __future__ import annotations

import re

# ESC [ ... final, and its one-character form 0x9b (ECMA-48, 5.4); the lengths are bounded so that nothing can
# hide an answer behind a sequence that never ends.
_CSI = r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"
# OSC, DCS, SOS, PM and APC strings up to BEL or ST, on one line.
_STRING = r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]{0,4096}(?:\x07|\x1b\\|\x9c)"
_ESCAPE = r"\x1b[ -/]{0,8}[0-OQ-WYZ\\`-~]"
_SEQUENCE = re.compile(f"{_CSI}|{_STRING}|{_ESCAPE}")
_INTRODUCER = re.compile(r"[\x1b\x90\x98\x9b\x9d-\x9f]")
# The beginning of a sequence whose rest may be in the next chunk.
_PARTIAL = re.compile(
    r"(?:\x1b[ -/]{0,8}|(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]{0,4096}\x1b?)\Z"
)
# C0 but tab and newline, DEL, C1, and the marks that reorder text (bidi embeddings, overrides, isolates).
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Cleaner:
    """Removes from a stream of text what would act on a terminal instead of standing on it.

    Whole escape sequences go, also when they are split over chunks; of a sequence that is malformed or never
    ends only the control character goes, so that no text can be hidden behind it.
    """

    def __init__(self) -> None:
        self._held = ""

    def push(self, chunk: str) -> str:
        """What of the text so far can be shown; the beginning of a sequence is held back."""
        text = self._held + chunk
        self._held = ""
        shown = []
        position = 0
        while found := _INTRODUCER.search(text, position):
            shown.append(text[position : found.start()])
            whole = _SEQUENCE.match(text, found.start())
            if whole:
                position = whole.end()
            elif _PARTIAL.match(text, found.start()):
                self._held = text[found.start() :]
                position = len(text)
            else:
                position = found.start() + 1
        shown.append(text[position:])
        return _strip("".join(shown))

    def flush(self) -> str:
        """What was held back, without its control characters."""
        held, self._held = self._held, ""
        return _strip(held)


def _strip(text: str) -> str:
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", text))


def clean(text: str) -> str:
    """The text as it may be shown on a terminal: no escape sequences, controls or marks that reorder it."""
    cleaner = Cleaner()
    return cleaner.push(text) + cleaner.flush()


def clean_line(text: str) -> str:
    """`clean`, on one line: runs of space and newlines become one space."""
    return " ".join(clean(text).split())
