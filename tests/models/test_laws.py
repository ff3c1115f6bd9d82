"""The three laws over every architecture in every backend: split anywhere, alone or together, the same.

Errors are relative RMS over a tensor of logits or of the state. FP32 is what sums in another order may differ
by (1e-6 was the largest seen), BF16 what weights and activations of 8 bits make of it: 9e-3 against the
reference, 4e-3 between two ways to read the same tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from jrt_kernels.registry import OPS, PACKAGES
from jrtcli.errors import NotResumable
from jrtcli.models.base import RecurrentLM
from jrtcli.state import State

FP32 = 3e-6
BF16 = 2e-2
VOCAB = 40
BACKENDS = sorted(set.intersection(*(set(backends) for backends in OPS.values())) - set(PACKAGES))
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def law(examples: int) -> Any:
    """A property, tried on the same examples each time."""
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=health
    )


def tokens_of(seed: int, *shape: int) -> Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def error(got: Tensor, want: Tensor) -> float:
    """Relative RMS error. Shapes must be equal; nothing may be infinite or undefined."""
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, want {tuple(want.shape)}"
    if not want.numel():
        return 0.0
    assert torch.isfinite(got).all()
    return ((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30)).item()


def same(got: Tensor, want: Tensor, tolerance: float, what: str) -> None:
    wrong = error(got, want)
    assert wrong < tolerance, f"{what}: relative RMS error {wrong:.2e}, allowed {tolerance:.0e}"


def same_state(got: State, want: State, tolerance: float) -> None:
    """Equal up to the zeros in front of the shorter of two key caches."""
    assert got.length.tolist() == want.length.tolist()
    for i, (one, other) in enumerate(zip(got.layers, want.layers, strict=True)):
        assert one.keys() == other.keys()
        for name, x in one.items():
            y = other[name]
            assert x.dtype == (torch.int64 if name == "length" else y.dtype)
            size = min(x.shape[1], y.shape[1]) if x.dim() > 1 and name in "kv" else None
            if size is not None:
                assert not x[:, : x.shape[1] - size].any() and not y[:, : y.shape[1] - size].any()
                x, y = x[:, x.shape[1] - size :], y[:, y.shape[1] - size :]
            same(x, y, tolerance, f"state of layer {i}, {name}")


@contextmanager
def reading_at_once(model: RecurrentLM, tokens: int) -> Iterator[None]:
    """Another number of tokens in the layers at once."""
    before = model.prefill_tokens
    model.prefill_tokens = tokens
    try:
        yield
    finally:
        model.prefill_tokens = before


def encoder(model: RecurrentLM, length: int | Sequence[int]) -> dict[str, Any]:
    if not model.has_encoder:
        return {}
    return {"encoder_length": length if isinstance(length, int) else torch.tensor(length)}


def lengths_for(backend: str) -> int:
    return 160 if backend == "naive" else 600  # naive is a loop over tokens


def check_split(model: RecurrentLM, data: st.DataObject, longest: int, tolerance: float) -> None:
    length = data.draw(st.integers(1, longest), "length")
    first = data.draw(st.integers(1, length), "encoder") if model.has_encoder else 1
    cuts = data.draw(st.lists(st.integers(first, length), max_size=6), "cuts")
    at_once = data.draw(st.sampled_from((2, 37, 512)), "tokens at once")
    tokens, ends = tokens_of(length, 2, length), sorted({first, *cuts, length})
    with torch.no_grad():
        whole = model.forward(tokens, **encoder(model, first))
    logits, state = model.prefill(tokens, **encoder(model, first))
    same(logits, whole[:, -1], tolerance, "logits of prefill against forward")
    with reading_at_once(model, at_once):
        pieces, piece = None, encoder(model, first)
        for start, stop in itertools.pairwise([0, *ends]):
            logits, pieces = model.prefill(tokens[:, start:stop], pieces, **piece)
            same(logits, whole[:, stop - 1], tolerance, f"logits after {stop} tokens")
            piece = {}
    assert pieces is not None
    same_state(pieces, state, tolerance)


@every_backend
@law(8)
@given(data=st.data())
def test_split_anywhere(tiny: Any, backend: str, data: st.DataObject) -> None:
    check_split(tiny.model(backend), data, lengths_for(backend), FP32)


@law(5)
@given(data=st.data())
def test_split_anywhere_in_half_precision(tiny: Any, data: st.DataObject) -> None:
    model = tiny.model(dtype=torch.bfloat16)
    check_split(model, data, 300, BF16)
    state = model.prefill(tokens_of(0, 1, 30))[1]
    kinds = {x.dtype for layer in state.layers for x in layer.values()}
    assert kinds <= {torch.float32, torch.int64}


@every_backend
def test_one_token_at_a_time(tiny: Any, backend: str) -> None:
    model, tokens = tiny.model(backend), tokens_of(1, 2, 40)
    with torch.no_grad():
        whole = model.forward(tokens, **encoder(model, 5))
    _, state = model.prefill(tokens[:, :5], **encoder(model, 5))
    for t in range(5, 40):
        by_prefill, after = model.prefill(tokens[:, t : t + 1], state)
        by_step, state = model.step(tokens[:, t], state)
        same(by_step, whole[:, t], FP32, f"step {t}")
        same(by_step, by_prefill, FP32, f"step {t} against prefill")
        same_state(state, after, FP32)
    same_state(state, model.prefill(tokens, **encoder(model, 5))[1], FP32)


@every_backend
def test_a_state_that_is_given_stays_as_it_was(tiny: Any, backend: str) -> None:
    model = tiny.model(backend)
    _, state = model.prefill(tokens_of(2, 3, 30))
    before = state.clone()
    model.step(tokens_of(3, 3), state)
    model.prefill(tokens_of(4, 3, 70), state)
    model.prefill(tokens_of(5, 3, 9), state, lengths=torch.tensor([9, 1, 4]))
    assert torch.equal(before.length, state.length)
    for was, now in zip(before.layers, state.layers, strict=True):
        assert was.keys() == now.keys()
        assert all(torch.equal(was[name], now[name]) for name in was)


def check_together(model: RecurrentLM, sizes: list[int], tolerance: float) -> None:
    rows, widest = len(sizes), max(sizes)
    tokens = tokens_of(sum(sizes), rows, widest)
    covered = [max(1, n // 2) for n in sizes]
    alone = [model.prefill(tokens[r : r + 1, :n], **encoder(model, covered[r])) for r, n in enumerate(sizes)]
    want = torch.cat([logits for logits, _ in alone])
    packed = torch.cat([tokens[r, :n] for r, n in enumerate(sizes)])[None]
    bounds = torch.tensor([0, *itertools.accumulate(sizes)])
    together = {
        "right-padded": (tokens, {"lengths": torch.tensor(sizes)}),
        "packed": (packed, {"cu_seqlens": bounds}),
    }
    if not model.keeps_padding:
        mask = torch.arange(widest) >= widest - torch.tensor(sizes)[:, None]
        left = torch.stack([tokens[r].roll(widest - n) for r, n in enumerate(sizes)])
        together["left-padded"] = (left, {"mask": mask.long()})
        with torch.no_grad():
            logits = model.forward(left, mask=mask)
            for r, n in enumerate(sizes):
                own = model.forward(tokens[r : r + 1, :n])[0]
                same(logits[r, widest - n :], own, tolerance, f"forward, left-padded, row {r} of {sizes}")
    for form, (batch, more) in together.items():
        logits, state = model.prefill(batch, **more, **encoder(model, covered))
        for r in range(rows):
            same(logits[r], want[r], tolerance, f"{form}, row {r} of {sizes}")
            same_state(state.select([r]), alone[r][1], tolerance)
    go_on(model, [state for _, state in alone], sizes, tolerance)


def go_on(model: RecurrentLM, states: list[State], sizes: list[int], tolerance: float) -> None:
    """Rows that have read different lengths go on together, by unequal lengths, then by steps."""
    more = [1 + (n * 7) % 40 for n in sizes]
    tokens = tokens_of(sum(more), len(sizes), max(more))
    next_token = tokens_of(7, len(sizes))
    _, state = model.prefill(tokens, State.concat(states), lengths=torch.tensor(more))
    logits, _ = model.step(next_token, state)
    for r, n in enumerate(more):
        _, own = model.prefill(tokens[r : r + 1, :n], states[r])
        same(logits[r], model.step(next_token[r : r + 1], own)[0][0], tolerance, f"row {r} going on")


rows_of_lengths = st.lists(st.integers(1, 150), min_size=1, max_size=4)


@every_backend
@law(5)
@given(sizes=rows_of_lengths)
def test_alone_or_together(tiny: Any, backend: str, sizes: list[int]) -> None:
    check_together(tiny.model(backend), [min(n, 60) if backend == "naive" else n for n in sizes], FP32)


def test_alone_or_together_with_very_different_lengths(tiny: Any) -> None:
    check_together(tiny.model(), [1, 600, 2, 513, 64], FP32)


@law(3)
@given(sizes=rows_of_lengths)
def test_alone_or_together_in_half_precision(tiny: Any, sizes: list[int]) -> None:
    check_together(tiny.model(dtype=torch.bfloat16), sizes, BF16)


@every_backend
def test_rows_of_a_state_can_be_taken_repeated_and_joined(tiny: Any, backend: str) -> None:
    model, tokens = tiny.model(backend), tokens_of(8, 3, 33)
    _, state = model.prefill(tokens)
    token = tokens_of(9, 3)
    want = model.step(token, state)[0]
    same(model.step(token[[2, 0]], state.select([2, 0]))[0], want[[2, 0]], FP32, "select")
    branches = state.repeat(2)
    assert branches.length.tolist() == [33] * 6
    same(model.step(token.repeat_interleave(2), branches)[0], want.repeat_interleave(2, 0), FP32, "repeat")
    joined = State.concat([state.select([1]), state])
    same(model.step(token[[1, 0, 1, 2]], joined)[0], want[[1, 0, 1, 2]], FP32, "concat")
    assert branches.nbytes == 2 * state.nbytes


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "naive"])
@law(4)
@given(length=st.integers(1, 300))
def test_the_same_in_every_backend(tiny: Any, backend: str, length: int) -> None:
    model, reference = tiny.model(backend), tiny.model("naive", torch.float64)
    tokens = tokens_of(length, 2, length)
    with torch.no_grad():
        same(model.forward(tokens), reference.forward(tokens), FP32, "logits")
    logits, state = model.prefill(tokens)
    want, want_state = reference.prefill(tokens)
    same(logits, want, FP32, "logits of the last token")
    for i, (one, other) in enumerate(zip(state.layers, want_state.layers, strict=True)):
        for name, x in one.items():
            same(x, other[name], FP32, f"state of layer {i}, {name}")


def test_half_precision_is_near_the_reference(tiny: Any) -> None:
    tokens = tokens_of(10, 2, 200)
    with torch.no_grad():
        logits = tiny.model(dtype=torch.bfloat16).forward(tokens)
        assert logits.dtype == torch.float32
        same(logits, tiny.model("naive", torch.float64).forward(tokens), BF16, "logits")


def test_gradients_equal_those_of_naive(tiny: Any) -> None:
    def gradients(backend: str) -> dict[str, Tensor]:
        model, tokens = tiny.model(backend, torch.float64, seed=1), tokens_of(11, 2, 70)
        model.requires_grad_()
        weights = torch.randn(2, 70, VOCAB, generator=torch.Generator().manual_seed(12)).double()
        (model.forward(tokens) * weights).sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    want = gradients("naive")
    assert len(want) > 10
    for name, got in gradients("torch").items():
        same(got, want[name], 1e-8, f"gradient of {name}")


def test_what_is_written_reads_back_the_same(tiny: Any) -> None:
    model, tokens = tiny.model(), tokens_of(13, 1, 50)
    again = type(model).from_checkpoint(*model.to_checkpoint())
    with torch.no_grad():
        assert torch.equal(again.forward(tokens), model.forward(tokens))


def test_a_state_cannot_stop_or_go_on_inside_the_encoder(tiny: Any) -> None:
    model, tokens = tiny.model(), tokens_of(14, 1, 40)
    if not model.has_encoder:
        with pytest.raises(ValueError, match="encoder"):
            model.prefill(tokens, encoder_length=20)
        return
    assert not model.resumable
    with pytest.raises(NotResumable):
        model.prefill(tokens[:, :10], encoder_length=20)
    _, state = model.prefill(tokens[:, :10], encoder_length=10)
    with pytest.raises(NotResumable):
        model.prefill(tokens[:, 10:], state, encoder_length=20)
    with pytest.raises(NotResumable):
        model.forward(tokens[:, :10], encoder_length=20)


def test_the_encoder_alone_looks_ahead(tiny: Any) -> None:
    model, tokens = tiny.model(), tokens_of(15, 1, 40)
    changed = tokens.clone()
    changed[0, 19] = (tokens[0, 19] + 1) % VOCAB
    with torch.no_grad():
        before, after = (model.forward(x, **encoder(model, 20))[0] for x in (tokens, changed))
    assert error(after[19:], before[19:]) > 1e-3
    if model.has_encoder:
        assert error(after[:19], before[:19]) > 1e-3
        with torch.no_grad():
            before, after = (model.forward(x, encoder_length=19)[0] for x in (tokens, changed))
    assert error(after[:19], before[:19]) < FP32


def test_requests_that_make_no_sense(tiny: Any) -> None:
    model, tokens = tiny.model(), tokens_of(16, 2, 8)
    with pytest.raises(ValueError, match="at most one"):
        model.prefill(tokens, lengths=torch.tensor([8, 3]), mask=torch.ones(2, 8))
    with pytest.raises(ValueError, match="at least one token"):
        model.prefill(tokens, lengths=torch.tensor([8, 0]))
    with pytest.raises(ValueError, match="left padding"):
        model.prefill(tokens, mask=torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0]] * 2))
    with pytest.raises(ValueError, match="rows"):
        model.prefill(tokens, model.init_state(3))
    with pytest.raises(ValueError, match="cu_seqlens"):
        model.prefill(tokens[:1], cu_seqlens=torch.tensor([0, 3]))
