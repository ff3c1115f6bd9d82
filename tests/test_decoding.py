"""Decoding by captured steps: the same tokens as by plain ones, whatever rows join, leave or take turns.

Without a GPU a step is captured by tracing it: what is replayed is the list of operations that the trace
holds, on the same tensors. As in a CUDA graph, no Python of the model runs again, and an operation that asks
for a value of a tensor fails.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from jrtcli.decoding import SIZES, Body, CudaGraphs, Decoder, decoder_of
from jrtcli.generate import generate
from jrtcli.models.base import RecurrentLM
from jrtcli.state import State


def _load(name: str, path: str) -> ModuleType:
    import sys

    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


fixtures = _load("models_conftest", "models/conftest.py")
RECURRENT = [name for name, tiny in fixtures.TINY.items() if tiny.architecture != "transformer"]
VOCAB = 40
captures: list[int] = []


def traced(body: Body, tensors: Sequence[Tensor]) -> Callable[[], None]:
    """A Capture that needs no GPU."""

    def function(*given: Tensor) -> tuple[Tensor, ...]:
        body(*given)
        return given

    with torch.no_grad():
        graph = make_fx(function)(*(x.clone() for x in tensors))
    captures.append(len(tensors[0]))

    def replay() -> None:
        graph(*tensors)

    return replay


def model_of(name: str) -> RecurrentLM:
    model: RecurrentLM = fixtures.TINY[name].model()
    return model


def read(model: RecurrentLM, seed: int, rows: int, tokens: int = 7) -> State:
    drawn = torch.randint(VOCAB, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    return model.prefill(drawn)[1]


def equal(one: State, other: State) -> None:
    assert torch.equal(one.length, other.length)
    for a, b in zip(one.layers, other.layers, strict=True):
        for name in a:
            assert torch.allclose(a[name], b[name], atol=1e-5, rtol=1e-4), name


class Beside:
    """Rows by captured steps, and the same rows by plain steps."""

    def __init__(self, model: RecurrentLM, decoder: Decoder, state: State) -> None:
        self.model, self.state = model, state
        self.rows = decoder.rows(state)
        self.tokens = torch.arange(len(state)) % VOCAB

    def step(self) -> None:
        logits = self.rows.step(self.tokens)
        want, self.state = self.model.step(self.tokens, self.state)
        assert torch.allclose(logits, want, atol=1e-4, rtol=1e-4)
        self.tokens = want.argmax(-1)

    def keep(self, rows: Sequence[int]) -> None:
        self.rows.keep(rows)
        self.state, self.tokens = self.state.select(rows), self.tokens[list(rows)]

    def join(self, *states: State) -> None:
        self.rows.join(states)
        self.state = State.concat([self.state, *states])
        self.tokens = torch.cat([self.tokens, torch.zeros(sum(map(len, states)), dtype=torch.int64)])


@pytest.mark.parametrize("name", RECURRENT)
def test_every_architecture_steps_the_same_when_captured(name: str) -> None:
    model = model_of(name)
    decoder = Decoder(model, traced, eager_steps=0)
    both = Beside(model, decoder, read(model, 1, 3))
    for _ in range(20):  # past the windows of the attention
        both.step()
    assert decoder.problem is None
    assert decoder.captured == (4,)
    equal(both.rows.state(), both.state)


def test_rows_leave_and_join() -> None:
    model = model_of("jrt_rnn")
    decoder = Decoder(model, traced, eager_steps=0)
    both = Beside(model, decoder, read(model, 1, 5))
    both.step()
    both.keep([4, 0, 2])
    both.step()
    both.join(read(model, 2, 1, tokens=11), read(model, 3, 2))
    both.step()
    both.step()
    both.keep([5])
    both.step()
    equal(both.rows.state(), both.state)
    assert decoder.captured == (1, 4, 8)


def test_rows_take_turns() -> None:
    model = model_of("mamba")
    decoder = Decoder(model, traced, eager_steps=0)
    one, two = Beside(model, decoder, read(model, 1, 2)), Beside(model, decoder, read(model, 2, 2))
    for _ in range(3):
        one.step()
        two.step()
    one.keep([1])
    two.step()
    one.step()
    equal(one.rows.state(), one.state)
    equal(two.rows.state(), two.state)


def test_a_state_that_was_given_out_or_in_stays_as_it_is() -> None:
    model = model_of("gla")
    decoder = Decoder(model, traced, eager_steps=0)
    given = read(model, 1, 3)
    before = given.clone()
    both = Beside(model, decoder, given)
    both.step()
    out = both.rows.state([2, 0])
    kept = out.clone()
    both.step()
    equal(given, before)
    equal(out, kept)
    want = both.state.select([1])
    equal(both.rows.state([1]), want)


def test_a_short_answer_is_not_captured() -> None:
    model = model_of("mamba2")
    decoder = Decoder(model, traced, eager_steps=2)
    both = Beside(model, decoder, read(model, 1, 1))
    seen = []
    for _ in range(4):
        both.step()
        seen.append(decoder.captured)
    assert seen == [(), (), (1,), (1,)]
    again = Beside(model, decoder, read(model, 2, 1))  # the next question finds it
    count = len(captures)
    again.step()
    assert len(captures) == count


def test_more_rows_than_any_graph_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jrtcli.decoding.SIZES", (1, 2))
    model = model_of("based")
    decoder = Decoder(model, traced, eager_steps=0)
    both = Beside(model, decoder, read(model, 1, 3))
    both.step()
    assert decoder.captured == ()
    both.keep([0, 1])
    both.step()
    assert decoder.captured == (2,)
    both.join(read(model, 2, 1))
    both.step()
    equal(both.rows.state(), both.state)


def test_a_cache_that_grows_is_not_captured() -> None:
    model = model_of("transformer")
    decoder = Decoder(model, traced, eager_steps=0)
    both = Beside(model, decoder, read(model, 1, 2))
    both.step()
    both.step()
    assert decoder.captured == () and decoder.problem == "the state grows with each token"


def test_a_capture_that_fails_is_said_and_answers_go_on() -> None:
    def fails(body: Body, tensors: Sequence[Tensor]) -> Callable[[], None]:
        body(*tensors)
        raise RuntimeError("operation not permitted when stream is capturing")

    model = model_of("mamba")
    decoder = Decoder(model, fails, eager_steps=1)
    both = Beside(model, decoder, read(model, 1, 3))
    for _ in range(4):
        both.step()
    assert decoder.problem == "RuntimeError: operation not permitted when stream is capturing"
    equal(both.rows.state(), both.state)


def test_memory_that_runs_out_later_leaves_the_states_of_all() -> None:
    """The graph of a larger size does not fit: rows that were in the tensors keep what they have read."""

    def small(body: Body, tensors: Sequence[Tensor]) -> Callable[[], None]:
        if len(tensors[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return traced(body, tensors)

    model = model_of("mamba")
    decoder = Decoder(model, small, eager_steps=0)
    one, two = Beside(model, decoder, read(model, 1, 2)), Beside(model, decoder, read(model, 2, 3))
    one.step()
    assert decoder.captured == (2,)
    two.step()
    assert decoder.problem is not None and "out of memory" in decoder.problem
    one.step()
    two.step()
    equal(one.rows.state(), one.state)


def test_a_state_of_another_dtype_is_stepped_plainly() -> None:
    model = model_of("mamba")
    decoder = Decoder(model, traced, eager_steps=0)
    state = read(model, 1, 1)
    rows = decoder.rows(state.to(dtype=torch.float64))
    rows.step(torch.tensor([3]))
    assert decoder.captured == ()


def test_generation_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("jrt_rnn")
    options: dict[str, Any] = {"max_new_tokens": 9, "stop_ids": frozenset()}
    plain = generate(model, range(12), **options)
    want = [step.id for step in plain]
    monkeypatch.setitem(model.__dict__, "decoder", Decoder(model, traced, eager_steps=1))
    graphed = generate(model, range(12), **options)
    assert [step.id for step in graphed] == want
    assert model.decoder.captured == (1,)
    assert graphed.state is not None and plain.state is not None
    equal(graphed.state, plain.state)


def test_a_copy_of_a_model_has_a_decoder_of_its_own() -> None:
    model = copy.deepcopy(model_of("mamba"))
    first = model.decoder
    other = copy.deepcopy(model)
    assert other.decoder is not first and other.decoder.model is other
    assert pickle.loads(pickle.dumps(first)).problem is None


def test_on_a_cpu_nothing_is_captured() -> None:
    model = model_of("mamba")
    decoder = decoder_of(model)
    both = Beside(model, decoder, read(model, 1, 1))
    for _ in range(8):
        both.step()
    assert decoder.captured == () and decoder.problem is None


def test_sizes_pad_little() -> None:
    assert tuple(sorted(set(SIZES))) == SIZES
    for smaller, larger in itertools.pairwise(SIZES[2:]):
        assert larger <= 2 * smaller and larger - smaller - 1 < larger / 2


@pytest.mark.gpu
@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("backend", ("torch", "auto"))
def test_cuda_graphs_say_the_same_tokens(name: str, backend: str) -> None:
    from jrtcli.models import architecture
    from jrtcli.placement import resolve_backend

    tiny = fixtures.TINY[name]
    config, weights = tiny.checkpoint()
    model: Any = architecture(tiny.architecture).from_checkpoint(
        config, weights, backend=resolve_backend(backend, tiny.architecture, "cuda:0"), device="cuda:0"
    )
    state = read(model, 1, 5)
    graphs, plain = Decoder(model, CudaGraphs(), eager_steps=1), Decoder(model)
    rows, others = graphs.rows(state), plain.rows(state)
    token = torch.zeros(5, dtype=torch.int64, device=model.device)
    for at in range(24):
        if at == 12:
            rows.keep([4, 1])
            others.keep([4, 1])
            token = token[[4, 1]]
        one, two = rows.step(token).clone(), others.step(token)
        assert torch.allclose(one, two, atol=1e-4, rtol=1e-4)
        token = two.argmax(-1)
    assert graphs.problem is None and graphs.captured == (2, 8)
