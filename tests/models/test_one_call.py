"""One token of one row in one compiled call: the same as through the layers, and as in fp64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from jrtcli.models import architecture
from jrtcli.models.base import RecurrentLM
from jrtcli.state import State

CONFIGS: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 5, "time_step_rank": 3, "use_conv_bias": False},
    "mamba2": {
        "state_size": 16, "num_heads": 2, "head_dim": 64, "n_groups": 2, "time_step_limit": [0.001, 0.1],
    },
    "mamba2-norm-first": {
        "d_model": 64, "n_layer": 3, "vocab_size": 40, "pad_vocab_size_multiple": 1, "tie_embeddings": False,
        "ssm_cfg": {"layer": "Mamba2", "d_state": 32, "headdim": 128, "norm_before_gate": True},
    },
}  # fmt: skip
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def build(case: str, backend: str = "numba", dtype: torch.dtype = torch.float32) -> Any:
    kind = case.partition("-")[0]
    config = CONFIGS[case]
    if "d_model" not in config:
        config = {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 40, "expand": 2, **config}
    torch.manual_seed(3)
    model: Any = architecture(kind).from_config({"model_type": kind, **config})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    settings, weights = model.to_checkpoint()
    return architecture(kind).from_checkpoint(settings, weights, backend=backend, dtype=dtype)


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def tokens(*shape: int) -> Tensor:
    return torch.randint(40, shape, generator=torch.Generator().manual_seed(5))


def walk(model: RecurrentLM, state: State, ids: Tensor) -> tuple[Tensor, State]:
    for token in ids:
        logits, state = model.step(token[None], state)
    return logits, state


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("count", (1, 3))
def test_a_token_in_one_call_is_what_the_layers_give(case: str, dtype: torch.dtype, count: int) -> None:
    model, exact = build(case, dtype=dtype), build(case, "naive", torch.float64)
    assert model._plan() is not None
    ids = tokens(20)
    _, state = model.prefill(ids[None, :11])
    with threads(count):
        logits, after = walk(model, state, ids[11:])
    want, states = exact.prefill(ids[None])
    assert error(logits, want) < TOLERANCE[dtype]
    assert after.length.tolist() == [20]
    for got, layer in zip(after.layers, states.layers, strict=True):
        for name, x in layer.items():
            assert got[name].shape == x.shape and got[name].dtype == torch.float32
            assert error(got[name], x) < TOLERANCE[dtype], name


@pytest.mark.parametrize("case", CONFIGS)
def test_a_row_alone_is_that_row_among_others(case: str) -> None:
    model = build(case)
    _, state = model.prefill(tokens(4, 9))
    ids = tokens(4)
    logits, after = model.step(ids, state)
    for row in range(4):
        alone, own = model.step(ids[row : row + 1], state.select([row]))
        assert error(alone, logits[row : row + 1]) < 2e-6
        for a, b in zip(own.layers, after.select([row]).layers, strict=True):
            assert all(error(a[name], b[name]) < 2e-6 for name in a)


@pytest.mark.parametrize("case", CONFIGS)
def test_the_state_given_stays_and_both_kinds_of_steps_can_follow_each_other(case: str) -> None:
    model = build(case)
    start = model.init_state(1)
    kept = start.clone()
    ids = tokens(6)
    mixed = start
    for i, token in enumerate(ids):
        step = model.step if i % 2 else lambda *given: RecurrentLM.step(model, *given)
        logits, mixed = step(token[None], mixed)
    want, _ = walk(model, start, ids)
    assert error(logits, want) < 2e-6
    for a, b in zip(start.layers, kept.layers, strict=True):
        assert all(a[name].equal(b[name]) for name in a)


def test_what_changes_the_weights_changes_the_next_token() -> None:
    model = build("mamba")
    state = model.init_state(1)
    token = tokens(1)
    first, _ = model.step(token, state)
    with torch.no_grad():
        model.layers[1].mixer.in_proj.weight.mul_(1.5)
    second, _ = model.step(token, state)
    assert error(second, RecurrentLM.step(model, token, state)[0]) < 2e-6
    assert not first.allclose(second)
    model.load_state_dict({name: x * 0.5 for name, x in model.state_dict().items()}, assign=True)
    third, _ = model.step(token, state)
    assert error(third, RecurrentLM.step(model, token, state)[0]) < 2e-6
    model.to(torch.bfloat16)
    assert model.step(token, state)[0].dtype == torch.float32


def test_models_it_is_not_made_for_go_through_the_layers() -> None:
    assert build("mamba", "torch")._plan() is None
    assert build("mamba", dtype=torch.float16)._plan() is None
    training = build("mamba")
    training.requires_grad_(True)
    assert training._plan() is None
    torch.manual_seed(0)
    config = {"model_type": "mamba", "hidden_size": 40, "num_hidden_layers": 1, "vocab_size": 40}
    model: Any = architecture("mamba").from_config(config, backend="numba").requires_grad_(False)
    assert model._plan() is None
    logits, _ = model.step(tokens(1), model.init_state(1))
    assert logits.shape == (1, 40)
