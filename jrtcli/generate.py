"""Generation: token ids in, token ids out. One prefill, then steps; knows no text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from jrtcli.errors import JrtError

if TYPE_CHECKING:
    from jrtcli.decoding import Rows
    from jrtcli.models.base import RecurrentLM
    from jrtcli.state import State


@dataclass(frozen=True)
class Step:
    """One generated token: its id, the model's probability of it, the seconds since reading began, and its
    lead (Chosen)."""

    id: int
    probability: float
    seconds: float
    lead: float | None = None


class Chosen(NamedTuple):
    """A token that was drawn and the model's probability of it. lead: how far the most probable token was
    ahead of the next, in probability; None where nobody asked."""

    id: int
    probability: float
    lead: float | None = None


class Overflowed(JrtError):
    """The logits of a row are not numbers."""

    def __init__(self) -> None:
        super().__init__("the model's numbers overflowed: take --dtype float32, or bfloat16 on a GPU")


class Steps(Protocol):
    """Steps that become an answer, and what they leave behind: the attributes of Generation."""

    prefill_seconds: float

    @property
    def model(self) -> RecurrentLM: ...

    @property
    def state(self) -> State | None: ...

    @property
    def finish_reason(self) -> str | None: ...

    def __next__(self) -> Step: ...


class Generation(Iterator[Step]):
    """The steps of one generation, and what they leave behind.

    Attributes:
        state: after the prompt and every token yielded but the last, which nobody has needed to read yet.
        prefill_seconds: reading the prompt, once the first step is there.
        finish_reason: "stop" (an id of `stop_ids` was drawn; it is not yielded), "length", or None before.
    """

    def __init__(
        self,
        model: RecurrentLM,
        ids: Sequence[int],
        *,
        max_new_tokens: int,
        stop_ids: frozenset[int],
        real_tokens: int | None = None,
        encoder_length: int | None = None,
        mask: Sequence[bool] | None = None,
        state: State | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        reencode: bool = False,
        pause: int = 0,
        on_pause: Callable[[State], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        leads: bool = False,
    ) -> None:
        if not ids:
            raise ValueError("a prompt of no tokens")
        if reencode and state is not None:
            raise ValueError("reencode reads everything again at every token: it cannot start from a state")
        self.model = model
        self._state = state
        self._rows: Rows | None = None
        self.prefill_seconds = 0.0
        self.finish_reason: str | None = None
        self._ids = list(ids)
        self._mask = list(mask) if mask is not None else None
        self._encoder_length = encoder_length
        self._real_tokens = real_tokens
        self._left = max_new_tokens
        self._stop_ids = stop_ids
        self._temperature = temperature
        self._reencode = reencode
        self._pause, self._on_pause = pause, on_pause
        self._on_progress = on_progress
        self._leads = leads
        self._random = random_of(seed)
        self._last: int | None = None
        self._ahead: Chosen | None = None
        self._started: float | None = None

    @property
    def state(self) -> State | None:
        return self._state if self._rows is None else self._rows.state()

    @state.setter
    def state(self, state: State | None) -> None:
        self._state, self._rows = state, None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self._ids)

    def begin(self) -> tuple[int | None, float]:
        """Read the prompt: the first token that will be yielded, None for a stop at once, and its
        probability."""
        if self._last is None and self._ahead is None:
            self._ahead = self._draw()
        if self._ahead is None:
            raise ValueError("the generation is under way")
        chosen, probability, _ = self._ahead
        return None if chosen in self._stop_ids else chosen, probability

    def _draw(self) -> Chosen:
        with torch.no_grad():
            logits = self._logits()[None]
        [chosen] = choose(
            logits,
            [self._random],
            real_tokens=self._real_tokens,
            temperature=self._temperature,
            leads=self._leads,
        )
        if chosen is None:
            raise Overflowed
        return chosen

    def __next__(self) -> Step:
        if self.finish_reason is not None or self._left <= 0:
            self.finish_reason = self.finish_reason or "length"
            raise StopIteration
        chosen, probability, lead = self._draw() if self._ahead is None else self._ahead
        self._ahead = None
        if chosen in self._stop_ids:
            self.finish_reason = "stop"
            raise StopIteration
        self._left -= 1
        self._last = chosen
        assert self._started is not None
        return Step(chosen, probability, time.perf_counter() - self._started, lead)

    def _logits(self) -> Tensor:
        """(V,) logits of the next token."""
        if self._last is None:
            self._started = time.perf_counter()
            logits = self._prefill()
            self.prefill_seconds = time.perf_counter() - self._started
            return logits
        if self._reencode:
            self._ids.append(self._last)
            if self._mask is not None:
                self._mask.append(True)
            return self._prefill()
        if self._rows is None:
            assert self._state is not None
            self._rows = self.model.decoder.rows(self._state)
        return self._rows.step(self._tensor([self._last])[0])[0]

    def _prefill(self) -> Tensor:
        options: dict[str, Any] = {}
        if self._encoder_length is not None:
            options["encoder_length"] = self._encoder_length
        if self._mask is not None:
            options["mask"] = torch.tensor([self._mask], dtype=torch.bool, device=self.model.device)
        # Only a first reading can be given a state: `reencode` starts from nothing each time.
        state = None if self._reencode else self.state
        if self._pause and not self._reencode:
            _, state = self._read(0, self._pause, state, options)
            if self._on_pause is not None:
                self._on_pause(state)
            logits, self.state = self._read(self._pause, len(self._ids), state, {})
        else:
            logits, self.state = self._read(0, len(self._ids), state, options)
        return logits[0]

    def _read(
        self, start: int, end: int, state: State | None, options: dict[str, Any]
    ) -> tuple[Tensor, State]:
        report, total = self._on_progress, len(self._ids)
        if report is not None:
            options = options | {"on_progress": lambda done: report(start + done, total)}
        return self.model.prefill(self._tensor(self._ids[start:end]), state, **options)

    def _tensor(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([list(ids)], dtype=torch.int64, device=self.model.device)


def random_of(seed: int) -> torch.Generator:
    """What a row's tokens are drawn with: on the CPU, so that one seed gives one answer on every device."""
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def choose(
    logits: Tensor,
    randoms: Sequence[torch.Generator],
    *,
    real_tokens: int | None,
    temperature: float,
    leads: bool = False,
) -> list[Chosen | None]:
    """The next token of each row and the model's probability of it; None where its logits are not numbers.

    logits (B, V); randoms: one per row, used where temperature > 0; real_tokens: rows of the vocabulary past
    these only pad the matrix; leads: whether the leads are wanted too.
    """
    real = logits[:, :real_tokens].float().cpu()
    bad = real.isnan().any(-1)
    real = torch.where(bad[:, None], 0.0, real)
    probabilities = torch.softmax(real, dim=-1)
    if temperature <= 0:
        chosen = real.argmax(-1).tolist()
    else:
        scaled = torch.softmax(real / temperature, dim=-1)
        chosen = [
            int(torch.multinomial(row, 1, generator=random))
            for row, random in zip(scaled, randoms, strict=True)
        ]
    ahead: list[float | None] = [None] * len(chosen)
    if leads:
        ahead = [best - next_best for best, next_best in probabilities.topk(2).values.tolist()]
    return [
        None if wrong else Chosen(id, float(row[id]), lead)
        for id, row, wrong, lead in zip(chosen, probabilities, bad.tolist(), ahead, strict=True)
    ]


def generate(model: RecurrentLM, ids: Sequence[int], **options: Any) -> Generation:
    """Generate from a prompt of token ids.

    Args:
        model: any architecture.
        ids: the prompt, or what of it comes after `state`.
        max_new_tokens: at most so many steps.
        stop_ids: ids that end it; they are not yielded.
        real_tokens: rows of the vocabulary that are tokens (the rest is padding, never drawn); None = all.
        encoder_length: tokens JRT-RNN reads non-causally; None = what the model was trained with.
        mask: False at left padding, one per id.
        state: what was read before; it is not changed.
        temperature: 0 takes the most probable token; `seed` decides otherwise.
        reencode: read prompt and answer anew for every token (the third way of the paper's Table 4).
        pause: after so many ids reading stops and goes on; the answer is then, to the last bit, that of a
            state which was saved there. 0: nowhere.
        on_pause: called with the state at the pause.
        on_progress: called with (tokens read, tokens of the prompt) during the prefill.
        leads: whether steps say how far the most probable token was ahead of the next.

    Raises:
        ValueError: the prompt has no tokens, or `reencode` together with `state`.
        JrtError: the logits are not numbers.
    """
    return Generation(model, ids, **options)
