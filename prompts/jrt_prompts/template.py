"""A template: ordered parts that put a document and a question into one prompt.

Just read twice, section 3.2 and appendix F: a recurrent model recalls more when it is shown the document
again after it knows the question. What a document or a question says is never interpreted: rendering only
joins strings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["text", "context", "question"]
Kind = Literal["text", "context", "question", "cue"]

MAX_READS = 64
"""More readings than this are a slip of the finger: a prompt grows by a document with each."""


class PromptError(ValueError):
    """A prompt cannot be rendered: no question, no document, or a number of readings that makes no sense."""


class TemplateError(PromptError):
    """A template is wrong or unknown; the message names the file and the key."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a prompt and where it comes from; a cue has the role "question"."""

    role: Role
    text: str


@dataclass(frozen=True)
class Prompt:
    """What a model is shown, in order, and the strings that end its answer."""

    segments: tuple[Segment, ...]
    stop: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole prompt as one string."""
        return "".join(segment.text for segment in self.segments)

    @property
    def contexts(self) -> tuple[int, ...]:
        """The indices of the segments that show the document."""
        return tuple(i for i, segment in enumerate(self.segments) if segment.role == "context")

    @property
    def reads(self) -> int:
        """How many times the document is read."""
        return len(self.contexts)

    @property
    def last_context(self) -> int:
        """The index of the segment with the last reading of the document."""
        return self.contexts[-1]


@dataclass(frozen=True)
class Part:
    """One element of a template. `again`: shown once more for every reading beyond the least."""

    kind: Kind
    text: str = ""
    again: bool = False


@dataclass(frozen=True)
class Template:
    """An order of showing a document and a question.

    default_reads: readings when the caller asks for none.
    context_end: what the shown document ends with, exactly once, whatever it ended with ("" = left alone).
    question_capital: the first letter of the question (and cue) is upper-cased.
    question_trim: characters taken off the end of the question (and cue), as the ":" after a key.
    """

    name: str
    description: str
    parts: tuple[Part, ...]
    stop: tuple[str, ...] = ()
    default_reads: int = 1
    context_end: str = ""
    question_capital: bool = False
    question_trim: str = ""

    @property
    def least_reads(self) -> int:
        """The readings that the order has without its `again` parts."""
        return sum(part.kind == "context" and not part.again for part in self.parts)

    @property
    def repeats(self) -> bool:
        """Whether the document can be read more often than `least_reads` times."""
        return any(part.again for part in self.parts)

    def render(
        self, context: str, question: str, *, reads: int | None = None, cue: str | None = None
    ) -> Prompt:
        """Show `context` and `question` in this order, the document `reads` times (None: `default_reads`).

        cue: the sentence that the answer completes, where the template has a place for it; the question
        itself if not given. All three are stripped of white space at their ends, then the template's options
        apply. Raises PromptError without a question or a document, or for readings this order cannot have.
        """
        count = self.check_reads(self.default_reads if reads is None else reads)
        shown = {
            "context": self._show_context(context),
            "question": self._show_question(question, "question"),
            "cue": self._show_question(question if cue is None else cue, "cue"),
        }
        segments: list[Segment] = []
        for part in self._expand(count):
            if part.kind == "text":
                segments.append(Segment("text", part.text))
            else:
                role: Role = "context" if part.kind == "context" else "question"
                segments.append(Segment(role, shown[part.kind]))
        return Prompt(tuple(segments), self.stop)

    def _expand(self, reads: int) -> list[Part]:
        """The parts with the `again` group written out."""
        group = [part for part in self.parts if part.again]
        if not group:
            return list(self.parts)
        first = self.parts.index(group[0])
        rest = self.parts[first + len(group) :]
        return [*self.parts[:first], *(group * (reads - self.least_reads)), *rest]

    def check_reads(self, reads: int) -> int:
        """`reads`, if this order can have so many; PromptError says why not."""
        least = self.least_reads
        if isinstance(reads, bool) or not isinstance(reads, int) or not 1 <= reads <= MAX_READS:
            raise PromptError(f"reads must be a whole number from 1 to {MAX_READS}, not {reads!r}")
        if reads < least:
            raise PromptError(f"template {self.name} reads the document at least {least} times, not {reads}")
        if reads > least and not self.repeats:
            raise PromptError(
                f"template {self.name} reads the document {least} time{'s' * (least != 1)}, not {reads}:"
                " mark the parts of one more reading with `again = true`, or take another template"
            )
        return reads

    def _show_context(self, context: str) -> str:
        text = _clean(context, "document")
        if not text:
            raise PromptError("the document is empty: there is nothing to read")
        if self.context_end:
            while text.endswith(self.context_end):
                text = text.removesuffix(self.context_end).rstrip()
            text += self.context_end
        return text

    def _show_question(self, question: str, what: str) -> str:
        text = _clean(question, what)
        if self.question_trim:
            text = text.rstrip(self.question_trim + " \t\r\n")
        if not text:
            raise PromptError(f"the {what} is empty: a prompt needs one")
        if self.question_capital:
            text = text[:1].upper() + text[1:]
        return text


def _clean(text: str, what: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"the {what} is not valid Unicode at character {error.start}") from None
    return text.strip()
