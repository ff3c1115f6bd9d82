"""One token of a few rows in one compiled call: the same as through the layers, and as in fp64."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from jrt_kernels.jit import tiles
from jrtcli.models import architecture
from jrtcli.models.base import RecurrentLM
from jrtcli.state import State

STATE_SPACE = {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 40, "expand": 2}
GLA = {
    "hidden_size": 128, "num_hidden_layers": 2, "vocab_size": 40, "num_heads": 2, "expand_k": 0.5,
    "intermediate_size": 96,
}  # fmt: skip
HYBRID = {
    "n_embd": 128, "n_layer": 4, "n_head": 4, "n_inner": 256, "vocab_size": 37, "pad_vocab_size_multiple": 8,
    "rotary_emb_fraction": 0.5, "mixer": {"use_bias": True, "expand_proj": 4},
    "alt_mixer": {"num_heads": 2, "feature_dim": 16}, "alt_mixer_layers": [1, 3],
    "alt_mixer_2": {"window_size": 12}, "alt_mixer_2_layers": [2],
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "mamba": {**STATE_SPACE, "state_size": 5, "time_step_rank": 3, "use_conv_bias": False},
    "mamba2": {
        **STATE_SPACE, "state_size": 16, "num_heads": 2, "head_dim": 64, "n_groups": 2,
        "time_step_limit": [0.001, 0.1],
    },
    "mamba2-norm-first": {
        "d_model": 64, "n_layer": 3, "vocab_size": 40, "pad_vocab_size_multiple": 1, "tie_embeddings": False,
        "ssm_cfg": {"layer": "Mamba2", "d_state": 32, "headdim": 128, "norm_before_gate": True},
    },
    "gla": GLA,
    "gla-shared": {
        **GLA, "hidden_size": 256, "num_heads": 4, "num_kv_heads": 2, "use_short_conv": True,
        "clamp_min": -0.02, "use_output_gate": False,
    },
    "based": HYBRID,
    "based-decay": {
        **HYBRID, "n_head": 8, "rotary_emb_fraction": 0, "fixed_decay": True,
        "alt_mixer": {"num_heads": 2, "feature_dim": 8, "use_decay_proj": True}, "qkv_proj_bias": True,
    },
    "jrt_rnn": {**HYBRID, "alt_mixer": {"num_heads": 2, "feature_dim": 16, "enc_length": 6}},
}  # fmt: skip
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 3e-2}


def build(case: str, backend: str = "numba", dtype: torch.dtype = torch.float32) -> Any:
    kind = case.partition("-")[0]
    torch.manual_seed(3)
    model: Any = architecture(kind).from_config({"model_type": kind, **CONFIGS[case]})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    settings, weights = model.to_checkpoint()
    return architecture(kind).from_checkpoint(settings, weights, backend=backend, dtype=dtype)


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-30))


def tokens(*shape: int) -> Tensor:
    return torch.randint(37, shape, generator=torch.Generator().manual_seed(5))


def walk(model: RecurrentLM, state: State, ids: Tensor) -> tuple[Tensor, State]:
    """ids (B, T), one step after the other."""
    for token in ids.unbind(1):
        logits, state = model.step(token, state)
    return logits, state


def agree(got: State, want: State, tolerance: float) -> None:
    assert got.length.tolist() == want.length.tolist()
    for a, b in zip(got.layers, want.layers, strict=True):
        assert a.keys() == b.keys()
        for name, x in b.items():
            assert a[name].shape == x.shape and a[name].is_floating_point() == x.is_floating_point()
            assert error(a[name], x) < tolerance if x.is_floating_point() else a[name].equal(x), name


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(params=(True, False), ids=("tiles", "no tiles"))
def with_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to multiply, where the processor has both."""
    if not request.param:
        monkeypatch.setattr(tiles, "present", lambda: False)
    elif not tiles.present():
        pytest.skip("this processor has no tiles")


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_tokens_in_one_call_are_what_the_layers_give_in_fp64(
    case: str, dtype: torch.dtype, with_tiles: None
) -> None:
    model, exact = build(case, dtype=dtype), build(case, "naive", torch.float64)
    assert model._plan() is not None
    ids = tokens(18, 14)
    _, start = model.prefill(ids[:, :8])
    want, states = walk(exact, exact.prefill(ids[:, :8])[1], ids[:, 8:])
    for rows in (1, 5, 18):
        logits, after = walk(model, start.select(range(rows)), ids[:rows, 8:])
        assert error(logits, want[:rows]) < TOLERANCE[dtype]
        agree(after, states.select(range(rows)), TOLERANCE[dtype])


@pytest.mark.parametrize("case", CONFIGS)
def test_several_threads_give_what_one_gives(case: str) -> None:
    model = build(case, dtype=torch.bfloat16)
    ids = tokens(6, 3)
    for rows in (1, 6):
        want, states = walk(model, model.init_state(rows), ids[:rows])
        with threads(3):
            logits, after = walk(model, model.init_state(rows), ids[:rows])
        assert error(logits, want) < 1e-6
        agree(after, states, 1e-6)


@pytest.mark.parametrize("case", CONFIGS)
def test_int8_weights_are_what_the_layers_make_of_them(case: str, with_tiles: None) -> None:
    model = build(case)
    model.quantize()
    ids = tokens(6, 9)
    _, state = model.prefill(ids)
    for rows in (1, 6):
        given, token = state.select(range(rows)), ids[:rows, 0]
        got, want = model.step(token, given), RecurrentLM.step(model, token, given)
        assert error(got[0], want[0]) < 3e-6
        agree(got[1], want[1], 3e-6)


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_row_alone_is_that_row_among_others(case: str, dtype: torch.dtype) -> None:
    model = build(case, dtype=dtype)
    # The layers keep their activations in bf16 and so do these states, but no step does.
    _, state = model.prefill(tokens(7, 9))
    ids = tokens(7)
    logits, after = model.step(ids, state)
    for row in (0, 3, 6):
        alone, own = model.step(ids[row : row + 1], state.select([row]))
        assert error(alone, logits[row : row + 1]) < 3e-6
        agree(own, after.select([row]), 3e-6)


@pytest.mark.parametrize("case", CONFIGS)
def test_the_state_given_stays_and_both_kinds_of_steps_can_follow_each_other(case: str) -> None:
    model = build(case)
    start = model.init_state(3)
    kept = start.clone()
    ids = tokens(3, 16)
    mixed = start
    for i, token in enumerate(ids.unbind(1)):
        step = model.step if i % 2 else lambda *given: RecurrentLM.step(model, *given)
        logits, mixed = step(token, mixed)
    want, _ = walk(model, start, ids)
    assert error(logits, want) < 2e-6
    agree(start, kept, 1e-12)


@pytest.mark.parametrize("case", ("mamba2", "based"))
def test_memory_of_a_state_is_used_again_only_when_nobody_holds_it(case: str) -> None:
    model = build(case)
    ids = tokens(2, 12)
    states = [model.init_state(2)]
    logits = []
    for token in ids.unbind(1):
        out, after = model.step(token, states[-1])
        states.append(after)
        logits.append(out)
    copies = [state.clone() for state in states]
    one = states[5].layers[0]
    part = {name: x[:1] for name, x in one.items()}
    wanted = {name: x.clone() for name, x in part.items()}
    places = {x.data_ptr() for state in states for layer in state.layers for x in layer.values()}
    del one
    for state, copy_ in zip(states[6:], copies[6:], strict=True):
        agree(state, copy_, 1e-12)
    del state, after
    states.clear()
    gc.collect()
    last = copies[-1]
    for token in ids.unbind(1):
        _, last = model.step(token, last)
    assert {x.data_ptr() for layer in last.layers for x in layer.values()} & places
    assert all(part[name].equal(x) for name, x in wanted.items())
    assert walk(model, model.init_state(2), ids)[0].equal(logits[-1])


def test_more_rows_than_one_call_is_for_go_through_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("mamba")
    ids, state = tokens(3), model.init_state(3)
    here = model.step(ids, state)
    monkeypatch.setattr(type(model), "most_rows", 2)
    monkeypatch.setattr(model, "_made", None)
    layers = model.step(ids, state)
    assert model._made is None
    assert error(layers[0], here[0]) < 2e-6
    model.step(ids[:2], state.select([0, 1]))
    assert model._made is not None


def test_a_state_of_another_shape_is_refused() -> None:
    model = build("mamba")
    state = model.init_state(2)
    state.layers[1]["ssm"] = state.layers[1]["ssm"][:, :, :16]
    with pytest.raises(ValueError, match="layer 1: ssm has shape"):
        model.step(tokens(2), state)


def test_a_copy_of_a_model_has_its_own_call() -> None:
    model = build("based")
    ids = tokens(1, 5)
    want, _ = walk(model, model.init_state(1), ids)
    other = copy.deepcopy(model)
    del model
    gc.collect()
    assert walk(other, other.init_state(1), ids)[0].equal(want)


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
    assert build("based", "torch")._plan() is None
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
