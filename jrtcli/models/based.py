"""Based: gated short convolutions, Taylor linear attention and sliding windows in one stack (arXiv
2402.18668).

Formats and semantics: HazyResearch/based. B batch, T tokens, D model dim, H heads of the linear attention, K
its feature dimension, P = D / H its value dim, F folded features, W filter width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from jrt_kernels.registry import resolve
from jrt_kernels.taylor_linear_attention.features import feature_count
from jrtcli.errors import CheckpointError
from jrtcli.models.hybrid import HybridConfig, HybridLM
from jrtcli.models.layers import Pointwise, RMSNorm, tap_major
from jrtcli.models.linear import Derived, Linear
from jrtcli.models.span import LayerState, Span

if TYPE_CHECKING:
    from jrt_kernels.jit.plan import Plan
    from jrt_kernels.jit.program import Room

CONV_TAPS = 3  # whatever config.json's kernel_sizes says, the published code builds 3


class Filters(nn.Module):
    """The weights of a depthwise convolution in conv1d's layout: weight (C, 1, W), bias (C,) or none."""

    def __init__(self, channels: int, width: int, *, bias: bool) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(channels, 1, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None


class BaseConv(nn.Module):
    """out_proj(silu(conv(u1)) * u2) with [u1, u2] = in_proj(x), u2 as wide as u1."""

    def __init__(self, config: HybridConfig, backend: str) -> None:
        super().__init__()
        inner = config.expand_proj * config.n_embd // 2
        self.in_proj = Linear(config.n_embd, 2 * inner, bias=config.conv_bias)
        self.conv = Filters(inner, CONV_TAPS, bias=config.conv_filter_bias)
        self.out_proj = Linear(inner, config.n_embd, bias=config.conv_bias)
        self.filters = Derived(tap_major)
        self.short_conv = resolve("short_conv", backend)
        self.pointwise = Pointwise(backend)

    def init_state(self, batch: int, device: torch.device) -> LayerState:
        return {"conv": torch.zeros(batch, self.out_proj.in_features, CONV_TAPS - 1, device=device)}

    def forward(self, x: Tensor, state: LayerState, span: Span) -> tuple[Tensor, LayerState]:
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        u, conv = self.short_conv(
            u,
            self.filters(self.conv.weight),
            self.conv.bias,
            activation="silu",
            initial_state=state["conv"],
            cu_seqlens=span.cu_seqlens,
        )
        return self.out_proj(self.pointwise.gated(u, gate, activated=False)), {"conv": conv}

    def plan(self, plan: Plan, x: Room, layer: int) -> Room:
        """The same for one token, as stages."""
        from jrt_kernels.jit.program import Kept

        inner = self.out_proj.in_features
        both = plan.product(x, self.in_proj.matrix, self.in_proj.bias)
        kept = Kept(layer, "conv", (CONV_TAPS - 1, inner), (1, 0))
        u = plan.convolve(both, self.conv.weight[:, 0], self.conv.bias, kept, both.part(inner))
        return plan.product(u, self.out_proj.matrix, self.out_proj.bias)


class LinearAttention(nn.Module):
    """Taylor linear attention; the extras are a short convolution over q, k, v and a norm on q.

    The decay of Based's 30B recipe weighs the numerator: decay[h]^(i - j) times decay_proj(x_i)[h].
    """

    def __init__(self, config: HybridConfig, backend: str) -> None:
        super().__init__()
        dim, self.heads = config.n_embd, config.linear_heads
        keys = self.heads * config.feature_dim
        self.feature_dim, self.head_dim = config.feature_dim, dim // self.heads
        self.proj_q = Linear(dim, keys, bias=False)
        self.proj_k = Linear(dim, keys, bias=False)
        self.proj_v = Linear(dim, dim, bias=False)
        self.out_proj = Linear(dim, dim, bias=False)
        self.decay_proj = Linear(dim, self.heads, bias=False) if config.use_decay_proj else None
        # Without decay_proj the published code ignores fixed_decay, and without fixed_decay it ignores
        # decay_proj.
        self.decays = config.use_decay_proj and config.fixed_decay
        self.log_decay, self.decay_const = config.log_decay, config.decay_const
        self.rates: Tensor | None = None
        if self.decays and self.log_decay is not None and len(self.log_decay) != self.heads:
            raise CheckpointError(
                f"decay.decay has {len(self.log_decay)} entries, but the linear attention {self.heads} heads"
            )
        self.qkv_conv = Filters(2 * keys + dim, config.qkv_conv, bias=False) if config.qkv_conv else None
        self.q_norm = (
            RMSNorm(config.feature_dim, config.layer_norm_epsilon, backend) if config.q_norm else None
        )
        self.sizes = [keys, keys, dim]
        self.short_conv = resolve("short_conv", backend)
        self.attend = resolve("taylor_linear_attention", backend)

    def init_state(self, batch: int, device: torch.device) -> LayerState:
        features = feature_count(self.feature_dim)
        state = {
            "kv": torch.zeros(batch, self.heads, features, self.head_dim, device=device),
            "ksum": torch.zeros(batch, self.heads, features, device=device),
        }
        if self.qkv_conv is not None:
            channels, _, width = self.qkv_conv.weight.shape
            state["conv"] = torch.zeros(batch, channels, width - 1, device=device)
        return state

    def _qkv(self, x: Tensor, state: LayerState, span: Span) -> tuple[Tensor, Tensor, Tensor, LayerState]:
        """x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, P), and the convolution's new state, if there is
        one.
        """
        q, k, v = self.proj_q(x), self.proj_k(x), self.proj_v(x)
        new: LayerState = {}
        if self.qkv_conv is not None:
            mixed, new["conv"] = self.short_conv(
                torch.cat([q, k, v], dim=-1),
                self.qkv_conv.weight[:, 0],
                initial_state=state["conv"],
                cu_seqlens=span.cu_seqlens,
            )
            q, k, v = mixed.split(self.sizes, dim=-1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in (q, k, v))
        return (q if self.q_norm is None else self.q_norm(q)), k, v, new

    def _decay(self, device: torch.device) -> Tensor:
        """The factor of each head for one token, (H,): the file's table, else 1 - 2^(decay_const - h)."""
        if self.log_decay is not None:
            # Kept: a step that brings numbers from the host cannot be captured in a CUDA graph.
            if self.rates is None or self.rates.device != device:
                self.rates = torch.tensor(self.log_decay, device=device).exp()
            return self.rates
        return 1 - 2.0 ** (self.decay_const - torch.arange(self.heads, device=device))

    def forward(self, x: Tensor, state: LayerState, span: Span) -> tuple[Tensor, LayerState]:
        q, k, v, new = self._qkv(x, state, span)
        o, (kv, ksum) = self.attend(
            q,
            k,
            v,
            decay=self._decay(x.device) if self.decays else None,
            initial_state=(state["kv"], state["ksum"]),
            cu_seqlens=span.cu_seqlens,
        )
        if self.decays and self.decay_proj is not None:
            o = o * self.decay_proj(x)[..., None]
        return self.out_proj(o.flatten(-2)), {"kv": kv, "ksum": ksum, **new}

    def plan(self, plan: Plan, x: Room, layer: int) -> Room:
        """The same for one token, as stages; without the extras."""
        from jrt_kernels.jit.program import After, Before, Kept
        from jrt_kernels.jit.stages.linear_attention import taylor

        q, k, v = (plan.product(x, y.matrix) for y in (self.proj_q, self.proj_k, self.proj_v))
        rates, weight = torch.zeros(self.heads), None
        if self.decays and self.decay_proj is not None:
            rates = self._decay(torch.device("cpu")).float().log2().clamp(min=-126)
            weight = plan.product(x, self.decay_proj.matrix)
        features = feature_count(self.feature_dim)
        kv = Kept(layer, "kv", (self.heads, features, self.head_dim))
        ksum, o = Kept(layer, "ksum", (self.heads, features)), plan.room(self.heads * self.head_dim)
        plan.add(
            taylor, self.heads, self.feature_dim, self.head_dim, q, k, v, 0 if weight is None else weight,
            plan.weight(rates), Before(kv), After(kv), Before(ksum), After(ksum), o,
        )  # fmt: skip
        return plan.product(o, self.out_proj.matrix)

    @property
    def plannable(self) -> bool:
        """Whether `plan` has all that this one does."""
        return self.qkv_conv is None and self.q_norm is None and self.head_dim % 64 == 0


class Based(HybridLM):
    """The Based hybrid."""

    architecture = "based"
    main_op = "taylor_linear_attention"
    other_ops: ClassVar[tuple[str, ...]] = ("short_conv", "sliding_window", "gated_norm")

    def _mixer(self, i: int) -> nn.Module:
        kind = self.config.kinds[i]
        if kind == "conv":
            return BaseConv(self.config, self.backend)
        return LinearAttention(self.config, self.backend) if kind == "linear" else super()._mixer(i)
