"""Prefill of one operator in every backend beside its peers: timed, checked on the same tensors, compared."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jrt_kernels.registry import OPS, choose, resolve
from jrtcli.bench import paper
from jrtcli.bench.attention import PEERS, Peer, attention_flops, sampled_attention
from jrtcli.bench.ceilings import Ceilings
from jrtcli.bench.clock import Clock, threads_of
from jrtcli.bench.operators import (
    ATTENTION_HEAD_DIM,
    OPERATORS,
    Dims,
    Operator,
    Tensors,
    moved_bytes,
)
from jrtcli.bench.problems import attempt, need_memory
from jrtcli.bench.reference import HALF_PEER_TOLERANCE, PEER_TOLERANCE, Reference, parts, relative
from jrtcli.bench.rows import Row

JRT_PROMPT = "jrt-prompt"
"""The runner that reads twice: the backend of `auto`, or the first one asked for, over 2N tokens."""

CPU_LENGTHS = (512, 1024, 2048, 4096)

_CACHE_BYTES = {"cpu": 2**27, "cuda": 2**28}  # more than any cache holds, with all input sets together
MOST_SETS = 16
OTHERS = ("fla", "mamba_ssm")
"""Backends that are others' kernels."""


@dataclass(frozen=True)
class Plan:
    """What to time. operators: names of OPERATORS; backends: of OPS, or auto, or all; peers: of PEERS.

    shapes: (batch, tokens). dims: None for each operator's own. most_s: of repetitions, for one row.
    """

    operators: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    backends: tuple[str, ...]
    peers: tuple[str, ...]
    dtypes: tuple[str, ...]
    device: str
    threads: tuple[int, ...]
    repeat: int
    dims: Dims | None = None
    most_s: float = 2.0

    def backends_of(self, op: str) -> tuple[str, ...]:
        """The backends of an operator to time: `all` is all but naive, which is a specification."""
        found: list[str] = []
        for name in self.backends:
            if name == "all":
                found += [backend for backend in OPS[op] if backend != "naive"]
            else:
                found.append(choose(op, self.device) if name == "auto" else name)
        return tuple(dict.fromkeys(found))

    def dims_of(self, operator: Operator) -> Dims:
        """Those asked for, else the operator's own on this kind of device."""
        return self.dims or (operator.gpu if self.device.startswith("cuda") else operator.cpu)

    @property
    def count(self) -> int:
        """How many rows it makes."""
        each = 0
        for name in self.operators:
            each += len(self.backends_of(OPERATORS[name].op)) + (name != "prefix")
            each += sum(PEERS[peer].softmax or name == "taylor" for peer in self.peers)
        return each * len(self.shapes) * len(self.dtypes) * len(self.threads)


def default_shapes(
    device: str, batches: tuple[int, ...] | None = None, lengths: tuple[int, ...] | None = None
) -> tuple[tuple[int, int], ...]:
    """(batch, tokens): every pair of what is given; of nothing the paper's Table 5, or what suits a CPU."""
    gpu = device.startswith("cuda")
    if batches is None and lengths is None and gpu:
        by_length = [(paper.BATCH, tokens) for tokens in paper.LENGTHS]
        return tuple(dict.fromkeys([*by_length, *((batch, paper.LENGTH) for batch in paper.BATCHES)]))
    batches = batches or ((paper.BATCH,) if gpu else (1,))
    lengths = lengths or (paper.LENGTHS if gpu else CPU_LENGTHS)
    return tuple((batch, tokens) for batch in batches for tokens in lengths)


@dataclass
class Job:
    """One row's work: sets of inputs, the call, and how far its result is from the exact one.

    error: output of `call` -> (relative RMS error, what is allowed, what it was compared with).
    """

    sets: list[tuple[Tensors, Tensors]]
    call: Callable[[tuple[Tensors, Tensors]], Any]
    error: Callable[[Any], tuple[float, float, str]]
    flops: float | None
    output: Callable[[Any], Tensor]


@torch.no_grad()
def prefill(plan: Plan, ceilings: Mapping[tuple[str, int], Ceilings]) -> Generator[Row, None, None]:
    """The rows, one after the other. ceilings: (dtype, threads) -> what the device can do."""
    for threads in plan.threads:
        with threads_of(threads):
            clock = Clock(plan.device, threads)
            softmax: dict[tuple[object, ...], Row] = {}
            for name in plan.operators:
                for dtype in plan.dtypes:
                    for batch, tokens in plan.shapes:
                        case = _Case(plan, name, dtype, batch, tokens, softmax)
                        yield from case.rows(clock, ceilings[dtype, threads])


class _Case:
    """One operator at one shape: its inputs and the exact result are shared by all rows.

    softmax: rows of softmax attention that were timed for another operator, and serve this one.
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        dtype: str,
        batch: int,
        tokens: int,
        softmax: dict[tuple[object, ...], Row],
    ) -> None:
        self.plan, self.name, self.dtype, self.softmax = plan, name, dtype, softmax
        self.batch, self.tokens = batch, tokens
        self.operator = OPERATORS[name]
        self.dims = plan.dims_of(self.operator)
        self.kind = getattr(torch, dtype)
        self._held: dict[int, tuple[list[tuple[Tensors, Tensors]], Reference]] = {}

    def rows(self, clock: Clock, ceilings: Ceilings) -> Iterator[Row]:
        op, plan = self.operator.op, self.plan
        peers = [PEERS[name] for name in plan.peers if PEERS[name].softmax or self.name == "taylor"]
        early = [peer for peer in peers if peer.softmax or peer is peers[0]]
        backends = plan.backends_of(op)
        jobs = [(peer.name, partial(self._peer, peer)) for peer in early]
        jobs += [(backend, partial(self._ours, backend, 1)) for backend in backends]
        jobs += [(peer.name, partial(self._peer, peer)) for peer in peers if peer not in early]
        reference: Row | None = None
        for runner, make in jobs:
            row = self._time(runner, clock, ceilings, make)
            if plan.peers and runner == plan.peers[0]:
                reference = row
            yield row.beside(reference)
        self._held.pop(1, None)
        if not self.operator.prefix:
            chosen = choose(op, plan.device) if set(plan.backends) & {"auto", "all"} else backends[0]
            row = self._time(JRT_PROMPT, clock, ceilings, partial(self._ours, chosen, 2))
            words = f"{chosen} over {2 * self.tokens:,} tokens"
            yield replace(row, note=f"{words}; {row.note}" if row.note else words).beside(reference)

    def _time(self, runner: str, clock: Clock, ceilings: Ceilings, make: Callable[[], Job]) -> Row:
        row = Row(
            "kernel", "prefill", self.name, runner, self.batch, self.tokens, self.dtype, clock.threads,
            published_ms=self._published(runner),
        )  # fmt: skip
        peer = PEERS.get(runner)
        key = (runner, self.batch, self.tokens, self.dtype, self.dims.attention_heads)
        if peer is not None and peer.softmax and key in self.softmax:
            return replace(self.softmax[key], subject=self.name, published_ms=row.published_ms)
        row = attempt(row, lambda row: timed(row, make(), clock, ceilings, self.plan))
        if peer is not None and peer.softmax:
            self.softmax[key] = row
        return row

    def _published(self, runner: str) -> float | None:
        if self.name not in ("taylor", "prefix") or self.dims != self.operator.gpu:
            return None
        causal = "prefix" if self.operator.prefix else "causal"
        kind = f"{causal} torch" if runner == "torch" else causal
        own = runner in OPS[self.operator.op]
        return paper.published_ms(kind if own else runner, self.batch, self.tokens)

    def _inputs(self, times: int) -> tuple[list[tuple[Tensors, Tensors]], Reference]:
        """Sets of inputs of `times` N tokens, and the exact result of the first."""
        if times not in self._held:
            tokens, device = times * self.tokens, self.plan.device
            generator = torch.Generator(device=device)

            def make(seed: int) -> tuple[Tensors, Tensors]:
                generator.manual_seed(seed)
                return self.operator.make(generator, self.batch, tokens, self.dims, self.kind)

            size = self.batch * tokens * self.dims.heads * (2 * self.dims.keys + self.dims.values)
            if self.operator.shares_keys:
                size //= max(1, self.dims.heads // 2)
            need_memory(3.0 * size * self.kind.itemsize, device)
            first = make(0)
            sets = [first, *(make(seed) for seed in range(1, _set_count(first[0], device)))]
            self._held[times] = (sets, Reference(self.operator, *first))
        return self._held[times]

    def _ours(self, backend: str, times: int) -> Job:
        function = resolve(self.operator.op, backend)
        sets, reference = self._inputs(times)
        tokens = times * self.tokens
        return Job(
            sets,
            lambda given: function(**given[0], **given[1]),
            lambda got: reference.error(got[0], parts(got[1]), self.kind, ours=backend not in OTHERS),
            self.operator.flops(self.batch, tokens, self.dims),
            lambda got: got[0],
        )

    def _peer(self, peer: Peer) -> Job:
        return self._attention(peer) if peer.softmax else self._based(peer)

    def _based(self, peer: Peer) -> Job:
        sets, reference = self._inputs(1)
        return Job(
            sets,
            lambda given: peer.call(given[0]["q"], given[0]["k"], given[0]["v"]),
            lambda got: reference.error(got, (), self.kind, ours=False),
            self.operator.flops(self.batch, self.tokens, self.dims),
            lambda got: got,
        )

    def _attention(self, peer: Peer) -> Job:
        heads, device = self.dims.attention_heads, self.plan.device
        generator = torch.Generator(device=device)
        shape = (self.batch, self.tokens, heads, ATTENTION_HEAD_DIM)
        need_memory(12.0 * self.batch * self.tokens * heads * ATTENTION_HEAD_DIM * self.kind.itemsize, device)

        def make(seed: int) -> tuple[Tensors, Tensors]:
            generator.manual_seed(seed)
            made = {n: torch.randn(shape, generator=generator, device=device).to(self.kind) for n in "qkv"}
            return made, {}

        first = make(0)
        sets = [first, *(make(seed) for seed in range(1, _set_count(first[0], device)))]

        def error(got: Tensor) -> tuple[float, float, str]:
            want, picked = sampled_attention(first[0]["q"], first[0]["k"], first[0]["v"])
            allowed = PEER_TOLERANCE if self.dtype == "float32" else HALF_PEER_TOLERANCE
            return relative(picked(got), want), allowed, "softmax fp64, last queries"

        return Job(
            sets,
            lambda given: peer.call(given[0]["q"], given[0]["k"], given[0]["v"]),
            error,
            attention_flops(self.batch, self.tokens, heads, ATTENTION_HEAD_DIM),
            lambda got: got,
        )


def timed(row: Row, job: Job, clock: Clock, ceilings: Ceilings, plan: Plan) -> Row:
    """The row with its times, or with what is wrong with the result, before the timed calls or after them."""
    calls = [lambda given=given: job.call(given) for given in job.sets]
    output = calls[0]()
    clock.wait()
    error, allowed, checked = job.error(output)
    tensors, shared = job.sets[0]
    moved = moved_bytes(tensors, shared, job.output(output))
    row = replace(
        row,
        error=error,
        checked=checked,
        moved_bytes=moved,
        flops=job.flops,
        predicted_ms=ceilings.predicted_ms(moved, job.flops or 0),
    )
    if not error <= allowed:
        return replace(row, note=_wrong(error, allowed, checked))
    del output
    inputs = sum(x.numel() * x.element_size() for x in (*tensors.values(), *shared.values()))
    peak = clock.peak(calls[-1])
    samples = clock.repeated(calls, plan.repeat, plan.most_s)
    error, allowed, checked = job.error(calls[0]())
    if not error <= allowed:
        return replace(
            row, error=error, note=f"{_wrong(error, allowed, checked)}, only after the timed calls"
        )
    row = replace(row, samples_ms=tuple(samples), peak_bytes=None if peak is None else inputs + peak)
    seconds = (row.median_ms or 0) / 1e3
    if seconds > 0:
        row = replace(
            row,
            bandwidth_share=moved / seconds / ceilings.bytes_per_s,
            rate_share=job.flops / seconds / ceilings.flops_per_s if job.flops else None,
        )
    return row


def _wrong(error: float, allowed: float, checked: str) -> str:
    return f"wrong: relative RMS error {error:.2g} against {checked}, allowed {allowed:.2g}"


def _set_count(tensors: Tensors, device: str) -> int:
    size = sum(x.numel() * x.element_size() for x in tensors.values())
    wanted = _CACHE_BYTES["cuda" if device.startswith("cuda") else "cpu"]
    return min(MOST_SETS, max(2, -(-wanted // max(1, size))))
