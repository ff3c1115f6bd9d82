"""An answer as it is made, token by token, and what it was and took in the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jrt_prompts import Prompt
from jrtcli.evidence import CaseRestorer
from jrtcli.generate import Steps
from jrtcli.stops import StopStrings

if TYPE_CHECKING:
    from jrtcli.models.base import RecurrentLM
    from jrtcli.tokens import Tokenizer


@dataclass(frozen=True)
class Token:
    """A piece of the answer; `text` may be empty while a character or a stop string is incomplete."""

    text: str
    id: int
    probability: float


@dataclass(frozen=True)
class Answer:
    """What was said, and what it took.

    continuation: the text as it was generated, white space at its ends and all.
    finish_reason: "stop" (a stop string or the end-of-text token), "length", or "interrupted". token_ids and
    probabilities: of the tokens that carry the answer (of the stop token where the answer is empty); leads:
    how far the most probable token was ahead of the next at each of them, where that was asked for.
    prompt_tokens: of the rendered prompt, the longest where the document was read in `passages`;
    context_tokens: of one reading of the document; read_tokens: read for this answer, filling included,
    `reused_tokens` (those of a DocumentState) not. kv_cache_bytes: what an attention model with as many
    layers of this width would hold for these tokens.
    """

    question: str
    text: str
    continuation: str
    token_ids: tuple[int, ...]
    probabilities: tuple[float, ...]
    finish_reason: str
    prompt: Prompt
    template: str
    reads: int
    prompt_tokens: int
    context_tokens: int
    passages: int
    read_tokens: int
    reused_tokens: int
    padding_tokens: int
    repeated_tokens: int
    first_token_s: float
    prefill_s: float
    decode_s: float
    decode_steps: int
    state_bytes: int
    kv_cache_bytes: int
    leads: tuple[float, ...] = ()

    @property
    def confidence(self) -> float | None:
        """Mean probability of the answer's tokens; None when there are none."""
        return sum(self.probabilities) / len(self.probabilities) if self.probabilities else None

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """Tokens read per second of the prefill."""
        return self.read_tokens / self.prefill_s if self.prefill_s > 0 else None

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens generated per second after the first, which the prefill gives."""
        return self.decode_steps / self.decode_s if self.decode_steps and self.decode_s > 0 else None


class Asking(Iterator[Token]):
    """The tokens of one answer; then, or whenever it is interrupted, `answer`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        generation: Steps,
        *,
        started: float,
        restorer: CaseRestorer | None,
        fields: dict[str, Any],
    ) -> None:
        self._generation, self._fields = generation, fields
        self._decoder = tokenizer.stream()
        self._stops = StopStrings(fields["prompt"].stop)
        self._restorer = restorer
        self._started = started
        self._text, self._begun = "", False
        self._continuation = ""
        self._ids: list[int] = []
        self._probabilities: list[float] = []
        self._leads: list[float] = []
        self._first_token_s = self._last_step_s = 0.0
        self._steps = 0
        self._finish_reason: str | None = None

    def __next__(self) -> Token:
        if self._finish_reason is not None:
            raise StopIteration
        try:
            step = next(self._generation)
        except StopIteration:
            self._finish_reason = self._generation.finish_reason
            rest = self._show(self._stops.push(self._decoder.flush()) + self._stops.flush(), last=True)
            if rest and self._ids:
                return Token(rest, self._ids[-1], self._probabilities[-1])
            raise
        if self._steps == 0:
            self._first_token_s = time.perf_counter() - self._started
        self._steps += 1
        self._last_step_s = step.seconds
        text = self._stops.push(self._decoder.push(step.id))
        if self._stops.stopped:
            self._finish_reason = "stop"
        if text or not self._stops.stopped or not self._ids:
            self._ids.append(step.id)
            self._probabilities.append(step.probability)
            self._leads += [] if step.lead is None else [step.lead]
        return Token(self._show(text, last=self._stops.stopped), step.id, step.probability)

    @property
    def finished(self) -> bool:
        """Whether the answer is all there."""
        return self._finish_reason is not None

    def _show(self, text: str, *, last: bool) -> str:
        """The text as the reader sees it: no space in front, the document's own capitals."""
        self._continuation += text
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        if self._restorer is not None:
            text = self._restorer.push(text) + (self._restorer.flush() if last else "")
        self._text += text
        return text

    @property
    def answer(self) -> Answer:
        """The answer so far."""
        if self._finish_reason is None and self._restorer is not None:
            self._text += self._restorer.flush()
        generation = self._generation
        state = generation.state
        fields = self._fields
        tokens = fields["reused_tokens"] + fields["read_tokens"] + self._steps
        return Answer(
            text=self._text.strip(),
            continuation=self._continuation,
            token_ids=tuple(self._ids),
            probabilities=tuple(self._probabilities),
            leads=tuple(self._leads),
            finish_reason=self._finish_reason or "interrupted",
            first_token_s=self._first_token_s,
            prefill_s=generation.prefill_seconds,
            decode_s=max(0.0, self._last_step_s - generation.prefill_seconds),
            decode_steps=max(0, self._steps - 1),
            state_bytes=state.nbytes if state is not None else 0,
            kv_cache_bytes=kv_cache_bytes(generation.model, tokens),
            **fields,
        )


def kv_cache_bytes(model: RecurrentLM, tokens: int) -> int:
    """Keys and values of all tokens and layers in the model's dtype: 2 x layers x tokens x D x bytes."""
    return 2 * len(model.layers) * tokens * model.width * next(model.parameters()).element_size()
