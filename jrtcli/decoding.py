"""Decoding: the rows that a model writes answers for, one more token for each at a time.

On a GPU a step is many small kernels, which take longer to launch than to run: the whole step is captured
into one CUDA graph for each of a few numbers of rows. A graph reads and writes tensors that stay where they
are, so the states of the rows it serves live there, and rows are padded to the next captured number. To
everyone else states are as before: values, which nobody changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jrtcli.state import State

if TYPE_CHECKING:
    from jrtcli.models.base import RecurrentLM

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of rows that are captured: none is padded by more than half, from 4 on. More rows go without."""

EAGER_STEPS = 4
"""Steps of a size before it is captured, which costs about as many: a short answer alone is done by then."""

Body = Callable[..., None]
Capture = Callable[[Body, Sequence[Tensor]], Callable[[], None]]
"""(body, tensors) -> replay. replay() does to the tensors, in place, what body(*tensors) does."""


class CudaGraphs:
    """A Capture by CUDA. Its graphs share the memory of what lives only within a step."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __reduce__(self) -> tuple[object, ...]:
        return CudaGraphs, ()

    def __call__(self, body: Body, tensors: Sequence[Tensor]) -> Callable[[], None]:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        device = tensors[0].device
        with torch.cuda.device(device):
            # Once beside: kernels are compiled and libraries set up, which a capture does not allow.
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                body(*tensors)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                body(*tensors)
        return graph.replay


class Rows:
    """Rows decoded together, at least one; their states are in the order of the rows."""

    def __init__(self, decoder: Decoder, state: State) -> None:
        self._decoder = decoder
        self._state: State | None = state  # None while it is in the decoder's tensors
        self._count = 0  # rows, while they are there

    def __len__(self) -> int:
        return self._count if self._state is None else len(self._state)

    def step(self, tokens: Tensor) -> Tensor:
        """One token (B,) for every row -> logits (B, V) fp32, overwritten by the next step of any rows."""
        return self._decoder._step(self, tokens)

    def state(self, rows: Sequence[int] | None = None) -> State:
        """What the rows, or some of them, have read, every token given included; no later step changes it."""
        if self._state is None:
            return self._decoder._copy(range(len(self)) if rows is None else rows)
        return self._state if rows is None else self._state.select(rows)

    def join(self, states: Sequence[State]) -> None:
        """More rows, behind those that are here."""
        self._put(State.concat([self.state(), *states]))

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows, at least one, in this order."""
        self._put(self.state(rows))

    def _put(self, state: State) -> None:
        self._decoder._leave(self)
        self._state = state


class Decoder:
    """Steps of one model, for any number of `Rows`, which take turns in its tensors.

    capture: None for a model that is stepped as it is. Attributes: problem, why steps are not captured though
    they were to be, or None.
    """

    def __init__(
        self, model: RecurrentLM, capture: Capture | None = None, *, eager_steps: int = EAGER_STEPS
    ) -> None:
        self.model = model
        self.problem: str | None = None
        self._own: list[dict[str, Tensor]] = []
        self._capture, self._eager_steps = capture, eager_steps
        self._seen: dict[int, int] = {}
        self._graphs: dict[int, Callable[[], None]] = {}
        self._tensors: tuple[Tensor, Tensor, State] | None = None
        self._inside: Rows | None = None

    def __reduce__(self) -> tuple[object, ...]:
        # A copy, or what another process gets, captures for itself.
        return Decoder, (self.model, self._capture)

    @property
    def captured(self) -> tuple[int, ...]:
        """The numbers of rows that have a graph."""
        return tuple(sorted(self._graphs))

    def rows(self, state: State) -> Rows:
        """Rows that go on from a state, which stays as it is."""
        return Rows(self, state)

    def _step(self, rows: Rows, tokens: Tensor) -> Tensor:
        replay = None if self._capture is None or self.problem else self._replay(rows)
        if replay is None:
            rows._put(rows.state())
            logits, rows._state = self.model.step(tokens, rows.state())
            return logits
        assert self._tensors is not None
        given, logits, buffers = self._tensors
        count = len(rows)
        if rows._state is not None:
            self._enter(rows, rows._state, buffers)
        given[:count].copy_(tokens)
        replay()
        return logits[:count]

    def _replay(self, rows: Rows) -> Callable[[], None] | None:
        """The captured step of as many rows or more; None where there is none, or not for these."""
        assert self._capture is not None
        if not self._own:
            self._own = self.model.init_state(1).layers
            if any(0 in x.shape[1:] for layer in self._own for x in layer.values()):
                self.problem = "the state grows with each token"
                return None
        size = next((size for size in SIZES if size >= len(rows)), None)
        if size is None or (rows._state is not None and not self._fits(rows._state)):
            return None
        if size in self._graphs:
            return self._graphs[size]
        self._seen[size] = self._seen.get(size, 0) + 1
        if self._seen[size] <= self._eager_steps:
            return None
        try:
            self._make(size, self._capture)
        except (RuntimeError, NotImplementedError) as error:
            # Memory for two more states, or an operation that cannot be captured: steps go on without.
            self._drop()
            self.problem = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            return None
        return self._graphs[size]

    @torch.no_grad()
    def _make(self, size: int, capture: Capture) -> None:
        if self._tensors is None or len(self._tensors[0]) < size:
            self._drop()  # graphs of smaller sizes hold the addresses of the tensors that go now
            device = self.model.device
            given = torch.zeros(size, dtype=torch.int64, device=device)
            logits = torch.zeros(size, self.model.vocab_size, device=device)
            self._tensors = given, logits, self.model.init_state(size)
        given, logits, buffers = self._tensors
        names = [(i, name) for i, layer in enumerate(buffers.layers) for name in layer]

        def body(given: Tensor, logits: Tensor, length: Tensor, *parts: Tensor) -> None:
            layers: list[dict[str, Tensor]] = [{} for _ in buffers.layers]
            for (i, name), part in zip(names, parts, strict=True):
                layers[i][name] = part
            out, after = self.model.step(given, State(layers, length))
            logits.copy_(out)
            length.copy_(after.length)
            for (i, name), part in zip(names, parts, strict=True):
                part.copy_(after.layers[i][name])

        parts = [buffers.layers[i][name] for i, name in names]
        tensors = [x[:size] for x in (given, logits, buffers.length, *parts)]
        self._evict()  # a capture may run the step
        self._graphs[size] = capture(body, tensors)

    def _enter(self, rows: Rows, state: State, buffers: State) -> None:
        """The states of these rows into the tensors; those that were there go back to theirs."""
        self._evict()
        for into, layer in zip(buffers.layers, state.layers, strict=True):
            for name, x in layer.items():
                into[name][: len(rows)].copy_(x)
        buffers.length[: len(rows)].copy_(state.length)
        rows._count, rows._state, self._inside = len(rows), None, rows

    def _copy(self, rows: Sequence[int]) -> State:
        """The states of some of the rows whose turn it is."""
        assert self._tensors is not None and self._inside is not None
        return self._tensors[2].select(rows)

    def _leave(self, rows: Rows) -> None:
        if self._inside is rows:
            self._inside = None

    def _evict(self) -> None:
        if self._inside is not None:
            self._inside._put(self._inside.state())

    def _fits(self, state: State) -> bool:
        """Whether a state has the shapes and dtypes of this model's own, but for the number of rows."""
        return all(
            x.shape[1:] == y.shape[1:] and x.dtype == y.dtype
            for ours, theirs in zip(self._own, state.layers, strict=True)
            for x, y in ((ours[name], theirs[name]) for name in ours)
        )

    def _drop(self) -> None:
        self._evict()
        self._graphs, self._tensors = {}, None


def decoder_of(model: RecurrentLM) -> Decoder:
    """A decoder that captures its steps where the model is on a CUDA device."""
    return Decoder(model, CudaGraphs() if model.device.type == "cuda" else None)
