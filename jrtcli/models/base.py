"""RecurrentLM: what every architecture can do, and how a batch is read through its layers.

Symbols: B rows, T tokens, N sequences (rows, or members of a pack), D model dim, V rows of the vocabulary.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from jrtcli.decoding import Decoder, decoder_of
from jrtcli.errors import CheckpointError
from jrtcli.models.linear import Derived, Linear, fast_linear, pack, quantize
from jrtcli.models.span import LayerState, Span
from jrtcli.state import State


class RecurrentLM(nn.Module):
    """A recurrent language model: reads tokens into a State and continues from it.

    A subclass takes (config, *, backend, published: the config.json it stands for) and gives `layers`
    (blocks: `block(x, state, span) -> (x, state)`, `block.init_state(batch, device)`), `embed`, `head`, and
    the names of published files in `from_checkpoint` and `to_checkpoint`.
    """

    architecture: ClassVar[str]
    main_op: ClassVar[str]
    """The operator that decides which backend `auto` means on a CPU."""
    other_ops: ClassVar[tuple[str, ...]]
    """The other operators that a model of this architecture may use."""
    Config: ClassVar[type]
    has_encoder: ClassVar[bool] = False
    keeps_padding: ClassVar[bool] = False
    """Whether left padding stays in the sequence, as JRT-RNN was published; else it is taken out before
    reading.
    """
    resumable: ClassVar[bool] = True
    prefill_tokens: int = 512
    """Tokens of all rows together that pass through the layers at once: bounds the memory of `prefill`."""

    config: Any
    backend: str
    layers: nn.ModuleList
    head_int8: tuple[Tensor, Tensor] | None = None
    """The matrix of the head in int8 with its scale, where the model was quantized."""

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> the residual stream (B, T, D)."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """hidden (..., D), before the final norm -> logits (..., V) in fp32."""

    @property
    @abstractmethod
    def unembedding(self) -> Tensor:
        """The matrix (V, D) of the head: the table of embeddings where they are tied."""

    @cached_property
    def _packed_head(self) -> Derived:
        return Derived(pack)

    @property
    def head_matrix(self) -> tuple[Tensor, Tensor | None]:
        """The head's matrix as it is multiplied by, and the scale of its rows, None where it is not int8."""
        return (self.unembedding, None) if self.head_int8 is None else self.head_int8

    def logits(self, y: Tensor) -> Tensor:
        """y (..., D) after the final norm -> logits (..., V), at least fp32."""
        weight, scale = self.head_matrix
        logits = fast_linear(
            y, weight, None, self._packed_head, compiled=self.backend == "numba", scale=scale
        )
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def quantize(self) -> None:
        """Keep every large matrix as int8 with a scale for each row; embeddings are looked up as they were.

        Such a model runs on a CPU, and can no longer be trained or saved.
        """
        table = self.unembedding
        for module in self.modules():
            if isinstance(module, Linear) and module.weight is not table:
                module.quantize()
        self.head_int8 = quantize(table)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, backend: str = "torch") -> Self:
        """A model with fresh weights, to be trained, of a config.json. Raises CheckpointError."""
        settings = cls.Config.from_dict(config)  # type: ignore[attr-defined]
        return cls(settings, backend=backend, published=config)

    @classmethod
    @abstractmethod
    def from_checkpoint(
        cls,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        *,
        backend: str = "torch",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        """The model of a checkpoint in any of its published formats. Raises CheckpointError."""

    @abstractmethod
    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """config.json and weights in a published format that `from_checkpoint` reads. Raises CheckpointError
        for int8 weights, which no published format has."""

    def own_weights(self) -> dict[str, Tensor]:
        """The weights by the names they have here. Raises CheckpointError where they are int8."""
        if self.head_int8 is not None:
            raise CheckpointError("weights that were made int8 cannot be saved: load the model without that")
        return self.state_dict()

    @cached_property
    def vocab_size(self) -> int:
        """Rows of the vocabulary, padding rows included."""
        return len(self.unembedding)

    @cached_property
    def width(self) -> int:
        """Model dim D."""
        return self.unembedding.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @cached_property
    def decoder(self) -> Decoder:
        """What steps this model's rows, in CUDA graphs on a GPU."""
        return decoder_of(self)

    def init_state(self, batch: int) -> State:
        """The state of `batch` rows that have read nothing."""
        device = self.device
        layers = [layer.init_state(batch, device) for layer in self.layers]  # type: ignore[operator]
        return State(layers, torch.zeros(batch, dtype=torch.int64, device=device))

    def hidden(
        self,
        tokens: Tensor,
        *,
        mask: Tensor | None = None,
        encoder_length: int | Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """tokens (B, T) read from nothing -> (B, T, D), the input of `head`. Arguments as in `forward`.

        cu_seqlens (N + 1,): B is 1 and the tokens are a pack of N sequences that do not see each other;
        encoder_length is then one number, or (N,).
        """
        batch, length = tokens.shape
        if cu_seqlens is not None:
            lengths = cu_seqlens.diff()
            start = torch.zeros_like(lengths)
            encoder = self._encoder_lengths(lengths, start, encoder_length)
            span = Span(start, length, cu_seqlens, encoder)
            return self._read(tokens, self.init_state(len(lengths)).layers, span)[0]
        if mask is not None and not self.keeps_padding:
            keep = mask.bool()
            self._check_left_padding(keep)
            lengths = keep.sum(1)
            bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
            packed = self._read(
                tokens[keep][None], self.init_state(batch).layers, self._span(lengths, bounds)
            )[0]
            out = packed.new_zeros(batch, length, packed.shape[-1])
            out[keep] = packed[0]
            return out
        lengths = torch.full((batch,), length, device=tokens.device)
        encoder = self._encoder_lengths(lengths, torch.zeros_like(lengths), encoder_length)
        span = Span(torch.zeros_like(lengths), length, None, encoder, self._pad_mask(mask, length, encoder))
        return self._read(tokens, self.init_state(batch).layers, span)[0]

    def forward(
        self, tokens: Tensor, *, mask: Tensor | None = None, encoder_length: int | Tensor | None = None
    ) -> Tensor:
        """tokens (B, T) int64 -> logits (B, T, V) fp32 at every position, read from nothing.

        mask (B, T): 0 on left padding. encoder_length: tokens of JRT-RNN's encoder, for all rows or (B,)
        each; None: the model's own rule. Raises ValueError for a mask that is not left padding, or an encoder
        where there is none.
        """
        return self.head(self.hidden(tokens, mask=mask, encoder_length=encoder_length))

    @torch.no_grad()
    def prefill(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        encoder_length: int | Tensor | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[Tensor, State]:
        """Reads tokens (B, T) on from `state` -> logits of each row's last token (N, V) fp32, the new State.

        At most one of: mask (B, T), 0 on left padding; lengths (B,), right-padded rows; cu_seqlens (N + 1,),
        packed rows with B = 1. No more than a chunk of tokens is in the layers at once, JRT-RNN's encoder
        region excepted. encoder_length as in `forward`; None: the model's own rule for rows that start here,
        no encoder for those that go on. on_progress is called with the tokens read so far. Raises ValueError
        for an empty row, NotResumable for an encoder that would have to go on from a state or past the tokens
        given.
        """
        if sum(x is not None for x in (mask, lengths, cu_seqlens)) > 1:
            raise ValueError("give at most one of mask, lengths, cu_seqlens")
        tokens = tokens.to(self.device)
        offsets, counts = self._rows(tokens, mask, lengths, cu_seqlens)
        if min(counts, default=0) < 1:
            raise ValueError("every row needs at least one token")
        rows, given = len(counts), state
        state = self.init_state(rows) if state is None else state
        if len(state) != rows:
            raise ValueError(f"the state has {len(state)} rows, the tokens {rows}")
        encoder = self._encoder_lengths(
            torch.tensor(counts, device=self.device), state.length, encoder_length
        )
        first = [0] * rows if encoder is None else encoder.tolist()
        pad_mask = self._pad_mask(mask, tokens.shape[1], encoder)

        flat = tokens.reshape(-1)
        layers, length = state.layers, state.length
        owned = given is None
        last = torch.empty(0)
        position, chunk = [0] * rows, max(1, self.prefill_tokens // rows)
        while any(at < count for at, count in zip(position, counts, strict=True)):
            active = [r for r in range(rows) if position[r] < counts[r]]
            take = [
                first[r] if position[r] == 0 and first[r] else min(chunk, counts[r] - position[r])
                for r in active
            ]
            pieces = [
                flat[offsets[r] + position[r] : offsets[r] + position[r] + n]
                for r, n in zip(active, take, strict=True)
            ]
            whole = len(active) == rows
            index = torch.tensor(active, device=self.device)
            before = length if whole else length[index]
            inner = layers if whole else [{name: x[index] for name, x in layer.items()} for layer in layers]
            covered = None
            if any(position[r] == 0 and first[r] for r in active):
                covered = torch.tensor(
                    [first[r] if position[r] == 0 else 0 for r in active], device=self.device
                )
            if len(set(take)) == 1:
                span = Span(before, take[0], None, covered, pad_mask if covered is not None else None)
                hidden, inner = self._read(torch.stack(pieces), inner, span, owned=owned)
                ends = hidden[:, -1]
            else:
                sizes = torch.tensor(take, device=self.device)
                bounds = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
                hidden, inner = self._read(
                    torch.cat(pieces)[None], inner, Span(before, sum(take), bounds, covered), owned=owned
                )
                ends = hidden[0, bounds[1:] - 1]
            added, owned = torch.tensor(take, device=self.device), True
            if whole:
                layers, length, last = inner, length + added, ends
            else:
                layers = _put_rows(layers, inner, index)
                length = length.index_add(0, index, added)
                last = last.index_copy(0, index, ends)
            for r, n in zip(active, take, strict=True):
                position[r] += n
            if on_progress is not None:
                on_progress(sum(position))
        return self.head(last), State(layers, length)

    @torch.no_grad()
    def forward_from(
        self, tokens: Tensor, state: State, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """tokens (B, T) read on from `state` -> logits (B, T, V) fp32 at every position, the new State.

        cu_seqlens (N + 1,): B is 1 and the tokens are a pack that goes on from the N rows of the state. All
        tokens are in the layers at once, and none of them in JRT-RNN's encoder. Raises ValueError for a state
        of other rows.
        """
        tokens = tokens.to(self.device)
        rows, length = tokens.shape if cu_seqlens is None else (len(cu_seqlens) - 1, tokens.shape[1])
        if len(state) != rows:
            raise ValueError(f"the state has {len(state)} rows, the tokens {rows}")
        added = torch.full_like(state.length, length) if cu_seqlens is None else cu_seqlens.diff()
        hidden, layers = self._read(tokens, state.layers, Span(state.length, length, cu_seqlens))
        return self.head(hidden), State(layers, state.length + added)

    @torch.no_grad()
    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """One token (B,) for every row -> logits (B, V) fp32, the new State. The given state stays as it
        is.
        """
        hidden, layers = self._read(token.to(self.device)[:, None], state.layers, Span(state.length, 1))
        return self.head(hidden[:, 0]), State(layers, state.length + 1)

    def _read(
        self, tokens: Tensor, states: Sequence[LayerState], span: Span, *, owned: bool = False
    ) -> tuple[Tensor, list[LayerState]]:
        """tokens (B, T) through all layers -> hidden (B, T, D), the layers' new states.

        owned: nobody else needs `states`: the new ones are written there. New memory for them in every chunk
        of a long text, between what is freed, would leave holes that add up.
        """
        x = self.embed(tokens)
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            x, new = layer(x, state, span)
            after.append(_written(new, state) if owned else new)
        return x, after

    def _span(self, lengths: Tensor, bounds: Tensor) -> Span:
        zeros = torch.zeros_like(lengths)
        return Span(zeros, int(bounds[-1]), bounds, self._encoder_lengths(lengths, zeros, None))

    def _rows(
        self, tokens: Tensor, mask: Tensor | None, lengths: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[list[int], list[int]]:
        """Where each row starts in the flattened tokens, and how many it has."""
        batch, width = tokens.shape
        if cu_seqlens is not None:
            if batch != 1:
                raise ValueError(f"packed tokens are (1, T), got {tuple(tokens.shape)}")
            marks: list[int] = cu_seqlens.tolist()
            if marks[0] != 0 or marks[-1] != width:
                raise ValueError(f"cu_seqlens must go from 0 to {width}, got {marks[0]}..{marks[-1]}")
            return marks[:-1], [b - a for a, b in itertools.pairwise(marks)]
        starts = [row * width for row in range(batch)]
        if mask is not None and not self.keeps_padding:
            self._check_left_padding(mask.bool())
            counts = [int(n) for n in mask.bool().sum(1)]
            return [start + width - n for start, n in zip(starts, counts, strict=True)], counts
        counts = [width] * batch if lengths is None else [int(n) for n in lengths]
        if max(counts) > width:
            raise ValueError(f"a row of {max(counts)} tokens in a batch {width} wide")
        return starts, counts

    @staticmethod
    def _check_left_padding(keep: Tensor) -> None:
        if bool((keep[:, :-1] & ~keep[:, 1:]).any()):
            raise ValueError("mask must be left padding: zeros, then ones, in each row")

    def _encoder_lengths(
        self, lengths: Tensor, start: Tensor, encoder_length: int | Tensor | None
    ) -> Tensor | None:
        """(N,) tokens the encoder covers of rows of `lengths` tokens that follow `start` others; None for
        none.
        """
        if encoder_length is not None and (not isinstance(encoder_length, int) or encoder_length > 0):
            raise ValueError(f"{self.architecture} has no encoder: encoder_length must be left out")
        return None

    def _pad_mask(self, mask: Tensor | None, tokens: int, encoder: Tensor | None) -> Tensor | None:
        """The mask a layer is to see where `keeps_padding`."""
        return None


def _written(new: LayerState, old: LayerState) -> LayerState:
    """`new`, what of it has the form of `old` in the memory of that."""
    for name, x in new.items():
        place = old[name]
        if x is not place and (x.shape, x.dtype) == (place.shape, place.dtype):
            new[name] = place.copy_(x)
    return new


def _put_rows(layers: Sequence[LayerState], rows: Sequence[LayerState], index: Tensor) -> list[LayerState]:
    """The layers' states with those of some rows replaced; a cache that grew is widened for all."""
    merged = []
    for old, new in zip(layers, rows, strict=True):
        layer = {}
        for name, x in new.items():
            base = old[name]
            if base.dim() > 1 and base.shape[1] != x.shape[1]:
                base = torch.cat(
                    [base.new_zeros(base.shape[0], x.shape[1] - base.shape[1], *base.shape[2:]), base], 1
                )
            layer[name] = base.index_copy(0, index, x)
        merged.append(layer)
    return merged
