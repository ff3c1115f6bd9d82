"""Program: the stages of a token with their numbers, and what each call puts between them.

The numbers of all stages lie in one int64 table. Those that are the same in every call are written once; a
call fills in its rows R, where activations lie and where states come from and go to. V rows of the
vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jrt_kernels.jit import tiles
from jrt_kernels.jit.compiler import Kernel
from jrt_kernels.jit.recycled import LINE, Recycled
from jrt_kernels.jit.stage import address, run_stages
from jrt_kernels.jit.stages.product import room
from jrt_kernels.jit.together import run_together


@dataclass(frozen=True)
class Rows:
    """R."""


@dataclass(frozen=True)
class Room:
    """The address of an activation (R, width), or of a column of it: a stage that takes one takes the width
    too.
    """

    offset: int
    width: int
    column: int = 0

    def part(self, column: int) -> Room:
        """From a column on."""
        return Room(self.offset, self.width, self.column + column)


@dataclass(frozen=True)
class Kept:
    """A tensor of a layer's state: its shape without rows, in the kernel.

    order: how the dimensions behind the rows are to be permuted to get that; None: as they are.
    """

    layer: int
    name: str
    shape: tuple[int, ...]
    order: tuple[int, ...] | None = None

    def given(self, x: Tensor) -> Tensor:
        """A state's tensor as the kernel takes it. Raises ValueError for one of another shape."""
        x = x.float()
        if self.order is not None:
            x = x.permute(0, *(1 + i for i in self.order))
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"layer {self.layer}: {self.name} has shape {tuple(x.shape)}, not (rows, *{self.shape})"
            )
        return x.contiguous()


@dataclass(frozen=True)
class Before:
    """The address of a kept tensor as it was given."""

    kept: Kept


@dataclass(frozen=True)
class After:
    """The address of the new one."""

    kept: Kept


@dataclass(frozen=True)
class Given:
    """The address of a tensor that each call brings."""

    name: str


@dataclass(frozen=True)
class Own:
    """Three numbers of a product of `size`: its own room, the bytes of a thread's, and whether it takes
    tiles.

    tiles_from: rows from which it does, None for never.
    """

    size: int
    tiles_from: int | None


Number = int | Rows | Room | Before | After | Given | Own


@dataclass
class _Places:
    """Where in the table something goes, and for some how far from where."""

    at: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    column: list[int] = field(default_factory=list)


class Program:
    """Stages with their numbers; room: values of an activation's row, of all of them. Built once for a
    model.
    """

    def __init__(self, stages: Sequence[tuple[Kernel, Sequence[Number]]], room: int, outputs: int) -> None:
        self._room, self._outputs = room, outputs
        numbers: list[int] = []
        marks: list[int] = []
        self._rows = _Places()
        self._rooms = _Places()
        self._given: dict[str, _Places] = {}
        self._owns: list[tuple[int, Own]] = []
        before, after = [], []
        for stage, given in stages:
            marks += [address(stage), 8 * len(numbers)]
            for x in given:
                at = len(numbers)
                numbers += [x] if isinstance(x, int) else [0, 0, 0] if isinstance(x, Own) else [0]
                if isinstance(x, Rows):
                    self._rows.at.append(at)
                elif isinstance(x, Room):
                    self._rooms.at.append(at)
                    self._rooms.offset.append(x.offset)
                    self._rooms.column.append(x.column)
                elif isinstance(x, Given):
                    self._given.setdefault(x.name, _Places()).at.append(at)
                elif isinstance(x, Own):
                    self._owns.append((at, x))
                elif isinstance(x, Before):
                    before.append((at, x.kept))
                elif isinstance(x, After):
                    after.append((at, x.kept))
        self._table, self._stages = np.array(numbers, np.int64), np.array(marks, np.int64)
        self._offset, self._column = np.array(self._rooms.offset), np.array(self._rooms.column)
        self._most = max((own.size for _, own in self._owns), default=0)
        self._before = before
        self._order(after)
        self._memory = Recycled(2), Recycled(), Recycled(2)

    def _order(self, after: Sequence[tuple[int, Kept]]) -> None:
        """New states of one kind lie behind each other, so that they are split in one go."""
        kinds: dict[tuple[Any, ...], list[tuple[int, Kept]]] = {}
        for at, kept in after:
            kinds.setdefault((kept.name, kept.shape, kept.order), []).append((at, kept))
        self._kinds = []
        self._after = _Places()
        size = 0
        # Those that are whole cache lines come first: then they start at one.
        for kind in sorted(kinds.values(), key=lambda kind: int(np.prod(kind[0][1].shape)) % LINE != 0):
            each = int(np.prod(kind[0][1].shape))
            self._kinds.append((size, each, [kept for _, kept in kind]))
            for at, _ in kind:
                self._after.at.append(at)
                self._after.offset.append(size)
                size += each
        self._new_offset, self._new_size = np.array(self._after.offset), size

    def __call__(
        self, layers: Sequence[Mapping[str, Tensor]], given: Mapping[str, Tensor], rows: int
    ) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """The layers' states, (R, ...) each, and the tensors promised as `Given` -> logits (R, V), new
        states.

        Results are fp32. Nothing given is changed but where a stage says so.
        """
        padded, parts = -(-rows // 4) * 4, torch.get_num_threads()
        own = -(-room(rows, self._most) // (2 * LINE)) * LINE
        states, rooms, answers = self._memory
        activations = rooms.take(padded * self._room + parts * own + LINE)
        new, logits = states.take(rows * self._new_size), answers.take(padded * self._outputs)
        before = [kept.given(layers[kept.layer][kept.name]) for _, kept in self._before]
        table = self._table.copy()
        table[self._rows.at] = rows
        table[self._rooms.at] = activations.data_ptr() + 4 * (padded * self._offset + self._column)
        table[self._after.at] = new.data_ptr() + 4 * rows * self._new_offset
        for (at, _), x in zip(self._before, before, strict=True):
            table[at] = x.data_ptr()
        for name, places in self._given.items():
            table[places.at] = (logits if name == "logits" else given[name]).data_ptr()
        with_tiles = tiles.present()
        for at, product in self._owns:
            table[at] = activations.data_ptr() + 4 * padded * self._room
            table[at + 1] = 4 * own
            table[at + 2] = with_tiles and product.tiles_from is not None and rows >= product.tiles_from
        run_together(run_stages, len(self._stages) // 2, self._stages, table.ctypes.data)
        return logits.view(padded, self._outputs)[:rows], self._split(new, rows, len(layers))

    def _split(self, new: Tensor, rows: int, count: int) -> list[dict[str, Tensor]]:
        layers: list[dict[str, Tensor]] = [{} for _ in range(count)]
        for first, each, kept in self._kinds:
            own = new[rows * first : rows * (first + len(kept) * each)]
            tensors = own.view(len(kept), rows, *kept[0].shape)
            if kept[0].order is not None:
                tensors = tensors.permute(0, 1, *(2 + i for i in np.argsort(kept[0].order)))
            for one, x in zip(kept, tensors.unbind(), strict=True):
                layers[one.layer][one.name] = x
        return layers
