"""The probe's models: Based of this tool, and Based with its two operators exchanged for non-causal ones.

The paper's appendix B.1: layers of gated convolution (filter 3) and linear attention with the Taylor map in
turn, no positions; the non-causal variant replaces the cumulative sum by a sum and makes the convolutions
circular. Published code (synthetic/zoology/experiments/causal.py) has no MLP between the mixers, although the
text names one: there is none here. `prefix` is the tool's JRT-RNN with the whole sequence in its encoder.

A state is what the causal model carries from token to token; the others are given the same sizes of layers,
so that they are compared at equal state, as in the figure.

B rows, T tokens, H heads, K feature dimension, P value dim, F folded features, D model dim, W taps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jrt_kernels.registry import resolve
from jrt_kernels.taylor_linear_attention.features import feature_count, taylor_features
from jrtcli.errors import UsageError
from jrtcli.models.based import BaseConv, Based, LinearAttention
from jrtcli.models.jrt_rnn import JRTRNN

READINGS = ("causal", "non-causal", "prefix", "twice")
"""How a sequence is read; `twice` is the causal model on a sequence that holds everything two times."""

SHORT_TOKENS = 256
"""Up to here all scores at once are faster than features and a state."""

State = tuple[Tensor, Tensor]


class Nothing(nn.Module):
    """An MLP that adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


def build(
    reading: str, *, width: int, feature_dim: int, vocabulary: int, layers: int = 4, heads: int = 2
) -> Based:
    """A model with fresh weights for one of READINGS. Raises UsageError for sizes that do not fit."""
    if width % heads:
        raise UsageError(f"width {width} cannot be split over {heads} heads")
    config: dict[str, Any] = {
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "n_inner": 256,
        "vocab_size": vocabulary,
        "mixer": {"expand_proj": 2},
        "alt_mixer": {"feature_dim": feature_dim, "num_heads": heads},
        "alt_mixer_layers": list(range(1, layers, 2)),
    }
    model = (JRTRNN if reading == "prefix" else Based).from_config(config)
    for block in model.layers:
        block.mlp, block.norm2 = Nothing(), nn.Identity()
        mixer = block.mixer
        if isinstance(mixer, LinearAttention) and reading != "prefix":
            mixer.attend = whole_attention if reading == "non-causal" else causal_attention
        if isinstance(mixer, BaseConv) and reading == "non-causal":
            mixer.short_conv = circular_conv
    # The head is the embedding: at this scale its logits begin with a variance of one.
    nn.init.normal_(model.embeddings["word_embeddings"].weight, std=width**-0.5)  # type: ignore[arg-type]
    return model


def answers(model: Based, tokens: Tensor, count: int) -> Tensor:
    """Logits (B, count, V) at the last `count` positions of tokens (B, T)."""
    return model.head(model.hidden(tokens)[:, -count:])


def state_floats(width: int, feature_dim: int, *, layers: int = 4, heads: int = 2) -> int:
    """Numbers in the state of one sequence: sums of the linear attention, last inputs of the convolutions.

    Per linear attention H F (P + 1), per convolution D (W - 1); as `build(...).init_state(1)` has it.
    """
    linear = heads * feature_count(feature_dim) * (width // heads + 1)
    return layers // 2 * linear + (layers - layers // 2) * 2 * width


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    decay: Tensor | None = None,
    initial_state: State | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, State | None]:
    """As the operator taylor_linear_attention, for sequences read from nothing; it makes no state."""
    if q.shape[1] > SHORT_TOKENS:
        return resolve("taylor_linear_attention", "torch")(q, k, v, initial_state=initial_state)
    return _by_scores(q, k, v, causal=True), initial_state


def whole_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    decay: Tensor | None = None,
    initial_state: State | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, State | None]:
    """Linear attention of every token to all: phi(q_i) sum_j phi(k_j) v_j / phi(q_i) sum_j phi(k_j)."""
    if q.shape[1] <= SHORT_TOKENS:
        return _by_scores(q, k, v, causal=False), initial_state
    phi_q, phi_k = taylor_features(q.transpose(1, 2)), taylor_features(k.transpose(1, 2))
    ones = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1).transpose(1, 2)
    sums = phi_q @ (phi_k.transpose(-1, -2) @ ones)
    return (sums[..., :-1] / sums[..., -1:]).transpose(1, 2), initial_state


def _by_scores(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """q, k (B, T, H, K), v (B, T, H, P) -> (B, T, H, P), from all T^2 weights 1 + s + s^2 / 2."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    weights = 1 + scores + 0.5 * scores * scores
    if causal:
        weights = weights.tril()
    return (torch.matmul(weights, v) / weights.sum(-1, keepdim=True)).transpose(1, 2)


def circular_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Depthwise convolution of x (B, T, C) around a circle: tap w sees the token w - W // 2 ahead."""
    taps = weight.shape[1]
    y = sum(torch.roll(x, taps // 2 - w, dims=1) * weight[:, w] for w in range(taps))
    assert isinstance(y, Tensor)
    y = y if bias is None else y + bias
    return (F.silu(y) if activation == "silu" else y), initial_state
