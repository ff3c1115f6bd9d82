"""The probe's models: who sees what, and that exchanged operators are the tool's own."""

from __future__ import annotations

import pytest
import torch

from jrt_kernels.registry import resolve
from jrtcli.errors import UsageError
from jrtcli.probe.model import (
    READINGS,
    SHORT_TOKENS,
    answers,
    build,
    causal_attention,
    circular_conv,
    state_floats,
    whole_attention,
)

TOKENS = torch.randint(0, 32, (2, 12), generator=torch.Generator().manual_seed(0))


def model(reading: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(reading, width=16, feature_dim=4, vocabulary=32)


@pytest.mark.parametrize("reading", READINGS)
def test_only_causal_models_are_blind_to_what_comes_later(reading: str) -> None:
    net = model(reading)
    changed = TOKENS.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 32
    with torch.no_grad():
        before, after = net.hidden(TOKENS)[:, :-1], net.hidden(changed)[:, :-1]  # type: ignore[operator]
    blind = reading in ("causal", "twice")
    assert torch.equal(before, after) is blind
    if not blind:
        assert (before - after).abs().amax(-1).min() > 1e-7  # each of the earlier tokens


@pytest.mark.parametrize("tokens", [9, SHORT_TOKENS + 5])
def test_attention_is_the_kernels_and_the_sum_over_all_tokens(tokens: int) -> None:
    g = torch.Generator().manual_seed(1)
    q, k = (torch.randn(2, tokens, 2, 4, generator=g, dtype=torch.float64) for _ in range(2))
    v = torch.randn(2, tokens, 2, 3, generator=g, dtype=torch.float64)
    exact, _ = resolve("taylor_linear_attention", "naive")(q, k, v)
    torch.testing.assert_close(causal_attention(q, k, v)[0], exact)
    # The last token sees all of them: its causal output is the non-causal one.
    whole, _ = whole_attention(q, k, v)
    torch.testing.assert_close(whole[:, -1], exact[:, -1])
    turned, _ = whole_attention(*(torch.roll(x, 3, dims=1) for x in (q, k, v)))
    torch.testing.assert_close(torch.roll(turned, -3, dims=1), whole)


def test_a_circular_convolution_goes_around() -> None:
    x = torch.arange(5.0).view(1, 5, 1)
    y, _ = circular_conv(x, torch.tensor([[1.0, 10.0, 100.0]]))
    # Tap 0 the token before, tap 1 the token itself, tap 2 the next one.
    assert y.flatten().tolist() == [104.0, 210.0, 321.0, 432.0, 43.0]


@pytest.mark.parametrize("feature_dim", [2, 5, 8])
def test_state_floats_are_those_of_the_state(feature_dim: int) -> None:
    net = build("causal", width=24, feature_dim=feature_dim, vocabulary=32)
    state = net.init_state(1)
    inside = sum(x.numel() for layer in state.layers for x in layer.values())
    assert state_floats(24, feature_dim) == inside


def test_there_is_no_mlp_and_the_head_is_the_embedding() -> None:
    net = model("causal")
    assert not [name for name, _ in net.named_parameters() if "mlp" in name or "norm2" in name]
    assert answers(net, TOKENS, 3).shape == (2, 3, 32)  # type: ignore[arg-type]


def test_a_width_is_split_over_the_heads() -> None:
    with pytest.raises(UsageError, match="heads"):
        build("causal", width=15, feature_dim=4, vocabulary=32)
