"""Whole models beside their peers: a prompt read, or tokens said. B rows, T tokens, V vocabulary rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jrt_kernels.registry import Unsupported
from jrtcli.bench import accuracy
from jrtcli.bench.ceilings import Ceilings
from jrtcli.bench.clock import Clock, percentile, threads_of
from jrtcli.bench.llama_cpp import LlamaCpp, files_of
from jrtcli.bench.problems import attempt
from jrtcli.bench.programs import INT8, Ours, Program, TransformerPlusPlus, Transformers, open_ours
from jrtcli.bench.rows import Row
from jrtcli.bench.shapes import SHAPES, write_random
from jrtcli.bench.turns import Turn, take_turns
from jrtcli.errors import JrtError

PEERS = (TransformerPlusPlus.name, Transformers.name, LlamaCpp.name)
"""The first is the one that is timed unless others are asked for."""

JRT_PROMPT = "jrt-prompt"
WARM_TOKENS = 64


@dataclass(frozen=True)
class Plan:
    """What to time. models: names of SHAPES (random weights), or what `jrtcli.load` takes; shapes: (B, T).

    new_tokens: 0 to time reading alone; else steps after the tokens of a shape were read. dtypes: as
    `jrtcli.load` has them, or int8. gguf: files and folders for llama.cpp, which has a row for each file
    beside the first of the dtypes. keep: where random weights stay. most_s: after so many seconds a row is
    not repeated.
    """

    models: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    backends: tuple[str, ...]
    peers: tuple[str, ...]
    dtypes: tuple[str, ...]
    device: str
    threads: tuple[int, ...]
    repeat: int
    new_tokens: int = 0
    gguf: tuple[Path, ...] = ()
    keep: Path | None = None
    most_s: float = 30.0

    @property
    def count(self) -> int:
        """At most how many rows it makes; a model with an encoder is not read twice."""
        timed, files = len(self.shapes) * len(self.threads), 0
        if LlamaCpp.name in self.peers:
            files = sum(max(1, len(found)) for found in files_of(self.gguf, self.models).values())
        each = len(set(self.peers) - {LlamaCpp.name}) + len(self.backends) + (not self.new_tokens)
        return timed * (len(self.models) * len(self.dtypes) * each + files)


def measure(plan: Plan, ceilings: Mapping[tuple[str, int], Ceilings]) -> Generator[Row, None, None]:
    """The rows, those of one model, dtype and shape together. ceilings: as in jrtcli.bench.kernels."""
    with torch.no_grad(), ExitStack() as stack:
        files = files_of(plan.gguf, plan.models)
        folders = {name: stack.enter_context(_checkpoint(plan, name)) for name in plan.models}
        one_thread: dict[tuple[Any, ...], Row] = {}
        for threads in plan.threads:
            with threads_of(threads):
                clock = Clock(plan.device, threads)
                for name in plan.models:
                    best: dict[tuple[int, int], Row] = {}
                    for dtype in plan.dtypes:
                        models = _Models(plan, name, folders[name], dtype, clock, ceilings[dtype, threads])
                        models.gguf = files[name] if dtype == plan.dtypes[0] else None
                        for row in models.rows(best):
                            key = (row.subject, row.runner, row.batch, row.tokens, row.dtype, row.note)
                            first = one_thread.setdefault(key, row)
                            yield row if first is row else _over_one_thread(row, first)


def _over_one_thread(row: Row, first: Row) -> Row:
    speed, before = row.tokens_per_s, first.tokens_per_s
    return replace(row, over_one_thread=speed / before) if first.threads == 1 and speed and before else row


@contextmanager
def _checkpoint(plan: Plan, name: str) -> Iterator[str | Path]:
    """What `jrtcli.load` takes for it: the random weights of a shape lie in a folder while they are timed."""
    if name not in SHAPES:
        yield name
    elif plan.keep is not None:
        yield write_random(name, plan.keep)
    else:
        with tempfile.TemporaryDirectory(prefix="jrt-bench-") as folder:
            yield write_random(name, Path(folder))


class _Models:
    """One checkpoint in one dtype: every program that reads it, held until its shapes are done.

    gguf: files for llama.cpp, whose rows are the same beside every dtype; None: they are there already.
    """

    gguf: tuple[Path, ...] | None = ()

    def __init__(
        self, plan: Plan, name: str, folder: str | Path, dtype: str, clock: Clock, ceilings: Ceilings
    ) -> None:
        self.plan, self.name, self.folder, self.dtype = plan, name, folder, dtype
        self.clock, self.ceilings = clock, ceilings
        self.programs: dict[str, Program] = {}
        self.errors: dict[str, float] = {}
        self.problems: dict[str, str] = {}
        self.ours: Ours | None = None

    def rows(self, best: dict[tuple[int, int], Row]) -> Iterator[Row]:
        """best: llama.cpp's fastest row of a shape, noted beside the first dtype and compared with beside
        all. Raises JrtError where the checkpoint is none of ours.
        """
        self._open()
        alone: dict[tuple[str, str], Row] = {}
        for batch, tokens in self.plan.shapes:
            pairs = self._turns(batch, tokens)
            take_turns([turn for turn, _ in pairs], self.clock, self.plan.repeat, self.plan.most_s)
            done = [self._finished(*pair) for pair in pairs]
            references = [self._reference(peer, done, best, (batch, tokens)) for peer in self.plan.peers]
            for row in done:
                if batch == 1:
                    alone[row.runner, row.dtype] = row
                first = alone.get((row.runner, row.dtype))
                one = None if first is None else first.tokens_per_s
                if row.new_tokens and batch > 1 and one and row.tokens_per_s:
                    row = replace(row, over_one_row=row.tokens_per_s / one)
                first_peer, others = references[:1], [each for each in references[1:] if each is not None]
                yield row.beside(first_peer[0] if first_peer else None).also_beside(others)

    def _reference(
        self, peer: str, done: Sequence[Row], best: dict[tuple[int, int], Row], shape: tuple[int, int]
    ) -> Row | None:
        """A peer's row; of several file types of llama.cpp the fastest one's."""
        found = [row for row in done if row.runner == peer]
        if peer != LlamaCpp.name:
            return found[0] if found else None
        timed = [row for row in found if row.tokens_per_s]
        if timed:
            fastest = max(timed, key=lambda row: row.tokens_per_s or 0)
            best[shape] = fastest if len(timed) == 1 else replace(fastest, runner=f"the best {peer}")
        return best.get(shape)

    def _open(self) -> None:
        """Load every program; what cannot be loaded, or is wrong, is a reason for all of its rows."""
        plan = self.plan
        for backend in plan.backends:
            self._try(backend, partial(open_ours, self.folder, plan.device, self.dtype, backend))
        self.ours = next((p for p in self.programs.values() if isinstance(p, Ours)), None)
        for peer, file in self._peers():
            self._try(f"{peer} {file.name}" if file else peer, partial(self._peer, peer, file))
        if self.ours is None:
            return
        ids = self._ids(1, accuracy.CHECKED_TOKENS + accuracy.CHECKED_STEPS)
        wanted = accuracy.exact_logits(self.ours, ids, plan.device)
        for name in [n for n, p in self.programs.items() if not isinstance(p, TransformerPlusPlus)]:
            if wanted is not None:
                self._try(name, partial(self._checked, name, wanted, ids))

    def _try(self, name: str, make: Callable[[], Program]) -> None:
        row = Row("model", "", "", name, 1, 1, self.dtype, 1)

        def fill(row: Row) -> Row:
            self.programs[name] = make()
            return row

        note = attempt(row, fill).note
        if note is not None:
            self.problems[name] = note

    def _peers(self) -> list[tuple[str, Path | None]]:
        """The peers to time beside this dtype, llama.cpp once for each of its files."""
        peers: list[tuple[str, Path | None]] = []
        for peer in self.plan.peers:
            if peer != LlamaCpp.name:
                peers.append((peer, None))
            elif self.gguf is not None:
                peers += [(peer, file) for file in self.gguf or (None,)]
        return peers

    def _peer(self, peer: str, file: Path | None) -> Program:
        plan = self.plan
        if peer == LlamaCpp.name:
            most = max(tokens for _, tokens in plan.shapes) + plan.new_tokens * (plan.repeat + 2) + 1
            return LlamaCpp(file, plan.device, self.clock.threads, most)
        if self.dtype == INT8:
            raise Unsupported(f"{peer} is not timed with int8 weights")
        if self.ours is None:
            raise JrtError("the model it would be compared with cannot be loaded")
        if peer == Transformers.name:
            return Transformers(self.ours.loaded.folder, plan.device, self.dtype)
        model = self.ours.model
        return TransformerPlusPlus(self.ours, model.width, model.vocab_size, plan.device, self.dtype)

    def _checked(self, name: str, wanted: list[Tensor], ids: Tensor) -> Program:
        program = self.programs[name]
        self.errors[name] = worst = accuracy.error(program, wanted, ids)
        if isinstance(program, LlamaCpp):
            exactly, coarse = program.dtype == "F32", program.bits < 8
        else:
            exactly, coarse = self.dtype == "float32", False
        allowed = accuracy.FP32_TOLERANCE if exactly else accuracy.OTHER_TOLERANCE
        allowed = accuracy.COARSE_TOLERANCE if coarse else allowed
        if not worst <= allowed:
            raise JrtError(
                f"wrong: relative RMS error of the logits {worst:.2g} against fp64, allowed {allowed}"
            )
        return program

    def _ids(self, batch: int, tokens: int) -> Tensor:
        rows = self.ours.model.vocab_size if self.ours is not None else 1000
        # The last rows may be padding, which no prompt has.
        seed = torch.Generator().manual_seed(1)
        ids = torch.randint(max(2, rows * 9 // 10), (batch, tokens), generator=seed)
        return ids.to(self.plan.device)

    def _turns(self, batch: int, tokens: int) -> list[tuple[Turn, Program | None]]:
        """What is to be timed, each with its program, None where it could not be loaded."""
        peers = [(f"{peer} {file.name}" if file else peer, peer) for peer, file in self._peers()]
        turns = [
            (self._turn(key, name, batch, tokens), self.programs.get(key))
            for key, name in (*peers, *((backend, backend) for backend in self.plan.backends))
        ]
        ours = self.ours
        if ours is not None and not self.plan.new_tokens and not ours.model.has_encoder:
            row = replace(self._row(JRT_PROMPT, batch, tokens), parameters=ours.parameters)
            row = replace(row, note=f"{ours.name} over {2 * tokens:,} tokens")
            ids = self._ids(batch, tokens).repeat(1, 2)
            turns.append((Turn(row, lambda: _first_token(ours.read(ids)[0])), ours))
        return turns

    def _row(self, runner: str, batch: int, tokens: int) -> Row:
        random = self.name in SHAPES or runner == TransformerPlusPlus.name
        return Row(
            "model", "decode" if self.plan.new_tokens else "prefill", self.name, runner, batch, tokens,
            self.dtype, self.clock.threads, new_tokens=self.plan.new_tokens,
            weights="random" if random else "checkpoint",
        )  # fmt: skip

    def _turn(self, key: str, name: str, batch: int, tokens: int) -> Turn:
        program = self.programs.get(key)
        if program is None or key in self.problems:
            row = self._row(name if program is None else program.name, batch, tokens)
            file = key.removeprefix(name).strip()
            row = replace(row, dtype=program.dtype) if isinstance(program, LlamaCpp) else row
            return Turn(replace(row, note=f"{file}: {self.problems[key]}" if file else self.problems[key]))
        row = replace(
            self._row(program.name, batch, tokens), parameters=program.parameters, note=program.about
        )
        if isinstance(program, LlamaCpp):
            row = replace(row, dtype=program.dtype)
        if key in self.errors:
            row = replace(row, error=self.errors[key], checked=accuracy.WORDS)
        ids = self._ids(batch, tokens)
        if self.plan.new_tokens:
            call = self._steps(program, ids)
            return Turn(row, call, call, self.plan.new_tokens)

        def read() -> Tensor:
            return _first_token(program.read(ids)[0])

        # On a GPU kernels are compiled for a shape; on a CPU once, and transformers' reading takes long.
        few = ids if self.clock.gpu else ids[:, :WARM_TOKENS]
        return Turn(row, read, lambda: program.read(few))

    def _steps(self, program: Program, ids: Tensor) -> Callable[[], object]:
        """Steps after ids (B, T), which are read before the first of them, as one row where that can be."""
        batch = ids.shape[0]
        said = self._ids(batch, self.plan.new_tokens)
        held: list[Any] = []

        def call() -> None:
            if not held:
                _, before = program.read(ids[:1] if program.spreads else ids)
                held.append(program.spread(before, batch) if program.spreads else before)
            state = held[0]
            for at in range(self.plan.new_tokens):
                logits, state = program.step(said[:, at], state)
                _first_token(logits)
            if program.changes_state:
                held[0] = state  # the next turn goes on from it

        return call

    def _finished(self, turn: Turn, program: Program | None) -> Row:
        row = turn.row
        if not turn.samples_ms:
            return row
        row = replace(row, samples_ms=tuple(turn.samples_ms))
        if not row.new_tokens:
            row = replace(row, first_token_ms=percentile(turn.walls_ms, 0.5))
        if program is not None and turn.peak is not None:
            row = replace(row, peak_bytes=turn.peak + program.weight_bytes)
        return self._against_ceilings(row, program) if isinstance(program, Ours) else row

    def _against_ceilings(self, row: Row, ours: Ours) -> Row:
        """Least bytes and operations: weights once (in a step the states too), products of every token."""
        model, seconds = ours.model, (row.median_ms or 0) / 1e3
        weights = sum(width * out for _, width, out in ours.linears)
        head = model.vocab_size * model.width
        if row.new_tokens:
            moved = float(ours.weight_bytes + 2 * row.batch * model.init_state(1).nbytes)
            flops = 2.0 * row.batch * (weights + head)
        else:
            moved = float(ours.weight_bytes)
            tokens = row.tokens * (2 if row.runner == JRT_PROMPT else 1)
            flops = 2.0 * row.batch * (tokens * weights + head)
            if row.runner != JRT_PROMPT:  # twice the time, of twice the products
                samples = self.clock.repeated([self._linears(ours, row)], 3, self.plan.most_s / 3)
                row = replace(row, linears_share=percentile(samples, 0.5) / 1e3 / seconds)
        return replace(
            row,
            moved_bytes=moved,
            flops=flops,
            predicted_ms=self.ceilings.predicted_ms(moved, flops),
            bandwidth_share=moved / seconds / self.ceilings.bytes_per_s,
            rate_share=flops / seconds / self.ceilings.flops_per_s,
        )

    def _linears(self, ours: Ours, row: Row) -> Callable[[], object]:
        """The matrix products alone, over chunks as `prefill` takes them."""
        chunk = max(1, ours.model.prefill_tokens // row.batch)
        sizes = [chunk] * (row.tokens // chunk) + [row.tokens % chunk] * (row.tokens % chunk > 0)
        kind = torch.float32 if self.dtype == INT8 else getattr(torch, self.dtype)
        inputs = {
            (size, width): torch.randn(row.batch, size, width, device=self.plan.device).to(kind)
            for size in set(sizes)
            for _, width, _ in ours.linears
        }

        def call() -> None:
            for size in sizes:
                for module, width, _ in ours.linears:
                    module(inputs[size, width])

        return call


def _first_token(logits: Tensor) -> Tensor:
    return logits.argmax(-1).cpu()
